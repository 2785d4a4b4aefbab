//! Methods of Python's strings. Every character of a result keeps its origin.

use super::brace;
use super::calls::Call;
use super::lexer::is_space;
use super::limits::{Result, fail};
use super::operators;
use super::predicates::{is_lower, is_upper};
use super::print::is_printable;
use super::run::Run;
use super::text::{Builder, Text};
use super::value::{Dict, Value};
use std::ops::Range;
use std::rc::Rc;

pub const NAMES: [&str; 45] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Returns an argument that must be a string. Returns an error if it is not a string.
fn string(value: Option<Value>, function: &str) -> Result<Text> {
    match value {
        Some(Value::Str(text)) => Ok(text),
        Some(Value::Undefined(message)) => fail(&*message),
        other => {
            let kind = other.as_ref().map_or("nothing", Value::type_name);
            fail(format!("{function}() argument must be str, not {kind}"))
        }
    }
}

fn integer(value: Option<Value>, default: i128) -> Result<i128> {
    match value {
        None => Ok(default),
        Some(value) => match value.defined()?.index() {
            Some(i) => Ok(i),
            None => fail(format!("'{}' object cannot be interpreted as an integer", value.type_name())),
        },
    }
}

/// Computes `text.name(…)`. The methods of `Markup` return `Markup`.
pub fn call(run: &Run<'_>, text: &Text, name: &'static str, arguments: Call) -> Result<Value> {
    match call_plain(run, text, name, arguments)? {
        Value::Str(result) if text.is_markup() => Ok(Value::Str(result.marked(true))),
        other => Ok(other),
    }
}

fn call_plain(run: &Run<'_>, text: &Text, name: &'static str, call: Call) -> Result<Value> {
    let budget = &run.budget;
    let whole = text.as_str();
    budget.scan(whole.len())?;
    let slice = |range: Range<usize>| text.slice(budget, range).map(Value::Str);
    match name {
        "lower" | "upper" | "casefold" | "swapcase" | "capitalize" | "title" => {
            call.nothing(name)?;
            change_case(run, text, name).map(Value::Str)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = call.bind(name, ["chars"], 0)?;
            let chars = match chars {
                None | Some(Value::None) => None,
                chars => Some(string(chars, name)?),
            };
            strip(run, text, chars.as_ref(), name != "rstrip", name != "lstrip").map(Value::Str)
        }
        "split" | "rsplit" => {
            let [separator, most] = call.bind(name, ["sep", "maxsplit"], 0)?;
            let most = usize::try_from(integer(most, -1)?).unwrap_or(usize::MAX);
            let ranges = match separator {
                None | Some(Value::None) if name == "split" => words(whole, most),
                None | Some(Value::None) => words_from_right(whole, most),
                separator => {
                    let separator = string(separator, name)?;
                    if separator.as_str().is_empty() {
                        return fail("empty separator");
                    }
                    split_at(whole, separator.as_str(), most, name == "rsplit")
                }
            };
            parts(run, text, ranges)
        }
        "splitlines" => {
            let [keep] = call.bind(name, ["keepends"], 0)?;
            let keep = keep.is_some_and(|k| k.is_true());
            parts(run, text, lines(whole, keep))
        }
        "partition" | "rpartition" => {
            let [separator] = call.bind(name, ["sep"], 1)?;
            let separator = string(separator, name)?;
            let separator = separator.as_str();
            if separator.is_empty() {
                return fail("empty separator");
            }
            let first = name == "partition";
            let found = if first { whole.find(separator) } else { whole.rfind(separator) };
            let end = whole.len();
            let (a, b) = match found {
                Some(at) => (at, at + separator.len()),
                None if first => (end, end),
                None => (0, 0),
            };
            Value::tuple(run, vec![slice(0..a)?, slice(a..b)?, slice(b..end)?])
        }
        "removeprefix" | "removesuffix" => {
            let [part] = call.bind(name, ["part"], 1)?;
            let part = string(part, name)?;
            let length = part.as_str().len();
            match name {
                "removeprefix" if whole.starts_with(part.as_str()) => slice(length..whole.len()),
                "removesuffix" if whole.ends_with(part.as_str()) => slice(0..whole.len() - length),
                _ => Ok(Value::Str(text.clone())),
            }
        }
        "startswith" | "endswith" => {
            let [part, start, end] = call.bind(name, ["prefix", "start", "end"], 1)?;
            let Some(window) = window(run, text, start, end)? else { return Ok(Value::Bool(false)) };
            let window = &whole[window];
            let test = |part: &str| {
                if name == "startswith" { window.starts_with(part) } else { window.ends_with(part) }
            };
            match part {
                Some(Value::Tuple(parts)) => {
                    for part in parts.values() {
                        budget.steps(1)?;
                        if test(string(Some(part.clone()), name)?.as_str()) {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                part => Ok(Value::Bool(test(string(part, name)?.as_str()))),
            }
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [part, start, end] = call.bind(name, ["sub", "start", "end"], 1)?;
            let part = string(part, name)?;
            let part = part.as_str();
            let window = window(run, text, start, end)?;
            if name == "count" {
                let count = window.map_or(0, |window| whole[window].matches(part).count());
                return Ok(Value::Int(count as i128));
            }
            let found = window.and_then(|window| {
                let inside = &whole[window.clone()];
                let at = if name.starts_with('r') { inside.rfind(part) } else { inside.find(part) };
                at.map(|at| whole[..window.start + at].chars().count())
            });
            match found {
                Some(at) => Ok(Value::Int(at as i128)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => fail("substring not found"),
            }
        }
        "replace" => {
            let [old, new, count] = call.bind(name, ["old", "new", "count"], 2)?;
            let most = usize::try_from(integer(count, -1)?).unwrap_or(usize::MAX);
            let mut new = string(new, name)?;
            if text.is_markup() {
                new = new.escaped(budget)?;
            }
            replace(run, text, &string(old, name)?, &new, most).map(Value::Str)
        }
        "join" => {
            let [values] = call.bind(name, ["iterable"], 1)?;
            let values = values.unwrap_or(Value::None).iterate(run)?;
            let mut out = Builder::default();
            for (i, value) in values.values().iter().enumerate() {
                let Value::Str(part) = value else {
                    let kind = value.type_name();
                    return fail(format!("sequence item {i}: expected str instance, {kind} found"));
                };
                if i > 0 {
                    out.push_text(budget, text)?;
                }
                let part = if text.is_markup() { part.escaped(budget)? } else { part.clone() };
                out.push_text(budget, &part)?;
            }
            Ok(Value::Str(out.finish()))
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = call.bind(name, ["width", "fillchar"], 1)?;
            let fill = fill.map_or(Ok(Text::own(" ")), |fill| string(Some(fill), name))?;
            if fill.chars() != 1 {
                return fail("The fill character must be exactly one character long");
            }
            pad(run, text, integer(width, 0)?, &fill, name).map(Value::Str)
        }
        "zfill" => {
            let [width] = call.bind(name, ["width"], 1)?;
            let missing = integer(width, 0)?.saturating_sub(text.chars() as i128);
            let sign = usize::from(whole.starts_with(['+', '-']));
            let mut out = Builder::default();
            out.push_range(budget, text, 0..sign)?;
            out.push_text(budget, &operators::repeat(run, &Text::own("0"), missing)?)?;
            out.push_range(budget, text, sign..whole.len())?;
            Ok(Value::Str(out.finish()))
        }
        "expandtabs" => {
            let [size] = call.bind(name, ["tabsize"], 0)?;
            expand_tabs(run, text, integer(size, 8)?).map(Value::Str)
        }
        "format" => brace::format(run, text, &call).map(Value::Str),
        "format_map" => {
            let [mapping] = call.bind(name, ["mapping"], 1)?;
            let Some(Value::Dict(dict)) = mapping else { return fail("format_map() takes a mapping") };
            let mut call = Call::default();
            for (key, value) in dict.entries() {
                if let Value::Str(key) = key {
                    budget.allocate(key.as_str().len() + 64)?;
                    call.named.push((key.as_str().into(), value.clone()));
                }
            }
            brace::format(run, text, &call).map(Value::Str)
        }
        "maketrans" => {
            let [from] = call.bind(name, ["x"], 1)?;
            match from {
                Some(Value::Dict(dict)) => Ok(Value::Dict(dict)),
                _ => Ok(Value::Dict(Rc::new(Dict::new()))),
            }
        }
        _ => {
            call.nothing(name)?;
            Ok(Value::Bool(is(name, whole)))
        }
    }
}

fn is(name: &str, text: &str) -> bool {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" | "isdigit" => all(|c| c.is_ascii_digit() || (c.is_numeric() && !c.is_ascii())),
        "isnumeric" => all(char::is_numeric),
        "isidentifier" => {
            all(|c| c == '_' || c.is_alphanumeric()) && !text.starts_with(|c: char| c.is_numeric())
        }
        "islower" => is_lower(text),
        "isupper" => is_upper(text),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        _ => {
            // `istitle`: each word begins with upper case and continues with lower case.
            let (mut inside, mut any) = (false, false);
            for c in text.chars() {
                if c.is_uppercase() {
                    if inside {
                        return false;
                    }
                    (inside, any) = (true, true);
                } else if c.is_lowercase() {
                    if !inside {
                        return false;
                    }
                } else {
                    inside = false;
                }
            }
            any
        }
    }
}

/// Computes `lower`, `upper` and the other methods that change the case.
pub fn change_case(run: &Run<'_>, text: &Text, name: &str) -> Result<Text> {
    let budget = &run.budget;
    match name {
        "lower" | "casefold" => text.map(budget, |piece| {
            let lower = piece.to_lowercase();
            if name == "casefold" { lower.replace('ß', "ss").replace('ς', "σ") } else { lower }
        }),
        "upper" => text.map(budget, str::to_uppercase),
        _ => {
            let mut out = Builder::default();
            let mut inside = false;
            let mut first = true;
            for (piece, user) in text.pieces(0..text.as_str().len()) {
                budget.allocate(3 * piece.len())?;
                let mut changed = String::with_capacity(piece.len());
                for c in piece.chars() {
                    let up = match name {
                        "swapcase" => c.is_lowercase(),
                        "capitalize" => first,
                        _ => !inside,
                    };
                    if name == "swapcase" && !c.is_lowercase() && !c.is_uppercase() {
                        changed.push(c);
                    } else if up {
                        changed.extend(c.to_uppercase());
                    } else {
                        changed.extend(c.to_lowercase());
                    }
                    inside = c.is_lowercase() || c.is_uppercase();
                    first = false;
                }
                out.push(budget, &changed, user)?;
            }
            Ok(out.finish())
        }
    }
}

/// Removes the characters of `chars` from the ends of a text. If `chars` is `None`, removes white space.
pub fn strip(run: &Run<'_>, text: &Text, chars: Option<&Text>, left: bool, right: bool) -> Result<Text> {
    let whole = text.as_str();
    let set: Option<std::collections::HashSet<char>> = chars.map(|c| c.as_str().chars().collect());
    run.budget.scan(whole.len() + 16 * chars.map_or(0, |c| c.as_str().len()))?;
    let strips = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
    let start = if left { whole.find(|c| !strips(c)).unwrap_or(whole.len()) } else { 0 };
    let kept = &whole[start..];
    let length = if right { kept.trim_end_matches(strips).len() } else { kept.len() };
    text.slice(&run.budget, start..start + length)
}

/// Replaces the first `most` occurrences of `old` by `new`.
pub fn replace(run: &Run<'_>, text: &Text, old: &Text, new: &Text, most: usize) -> Result<Text> {
    let budget = &run.budget;
    let whole = text.as_str();
    let mut out = Builder::default();
    let mut from = 0;
    for (at, found) in whole.match_indices(old.as_str()).take(most) {
        budget.steps(1)?;
        out.push_range(budget, text, from..at)?;
        out.push_text(budget, new)?;
        from = at + found.len();
    }
    out.push_range(budget, text, from..whole.len())?;
    Ok(out.finish())
}

fn pad(run: &Run<'_>, text: &Text, width: i128, fill: &Text, name: &str) -> Result<Text> {
    let length = text.chars() as i128;
    let missing = width.saturating_sub(length).max(0);
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // As in Python: if `missing` and `width` are odd, the left side gets the extra character.
        _ => missing / 2 + (missing & width & 1),
    };
    let mut out = Builder::default();
    out.push_text(&run.budget, &operators::repeat(run, fill, left)?)?;
    out.push_text(&run.budget, text)?;
    out.push_text(&run.budget, &operators::repeat(run, fill, missing - left)?)?;
    Ok(out.finish())
}

/// Computes the filter `center`.
pub fn center(run: &Run<'_>, text: &Text, width: i128) -> Result<Text> {
    pad(run, text, width, &Text::own(" "), "center")
}

fn expand_tabs(run: &Run<'_>, text: &Text, size: i128) -> Result<Text> {
    let budget = &run.budget;
    let mut out = Builder::default();
    let (mut column, mut from) = (0i128, 0);
    for (at, c) in text.as_str().char_indices() {
        match c {
            '\t' => {
                out.push_range(budget, text, from..at)?;
                from = at + 1;
                if size > 0 {
                    let spaces = size - column % size;
                    out.push_text(budget, &operators::repeat(run, &Text::own(" "), spaces)?)?;
                    column += spaces;
                }
            }
            '\n' | '\r' => column = 0,
            _ => column += 1,
        }
    }
    out.push_range(budget, text, from..text.as_str().len())?;
    Ok(out.finish())
}

/// Returns the byte range of a text between the character indices `start` and `end`. Returns `None` if `start` is after
/// `end`: then even an empty text is not found.
fn window(
    run: &Run<'_>,
    text: &Text,
    start: Option<Value>,
    end: Option<Value>,
) -> Result<Option<Range<usize>>> {
    let whole = text.as_str();
    if start.is_none() && end.is_none() {
        return Ok(Some(0..whole.len()));
    }
    run.budget.scan(whole.len())?;
    let length = text.chars() as i128;
    let bound = |value: Option<Value>, default: i128| -> Result<i128> {
        let i = match value {
            None | Some(Value::None) => default,
            value => integer(value, default)?,
        };
        Ok(if i < 0 { (i + length).max(0) } else { i })
    };
    let (start, end) = (bound(start, 0)?, bound(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let place = |n: i128| whole.char_indices().nth(n as usize).map_or(whole.len(), |(at, _)| at);
    Ok(Some(place(start)..place(end)))
}

fn parts(run: &Run<'_>, text: &Text, ranges: Vec<Range<usize>>) -> Result<Value> {
    run.budget.allocate(96 * ranges.len())?;
    let parts = ranges.into_iter().map(|range| text.slice(&run.budget, range).map(Value::Str));
    let parts = parts.collect::<Result<_>>()?;
    Value::list(run, parts)
}

fn words(text: &str, most: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut from = 0;
    loop {
        from += text[from..].find(|c| !is_space(c)).unwrap_or(text.len() - from);
        if from == text.len() {
            return ranges;
        }
        if ranges.len() == most {
            ranges.push(from..text.len());
            return ranges;
        }
        let end = text[from..].find(is_space).map_or(text.len(), |i| from + i);
        ranges.push(from..end);
        from = end;
    }
}

fn words_from_right(text: &str, most: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut end = text.len();
    loop {
        end = text[..end].trim_end_matches(is_space).len();
        if end == 0 {
            break;
        }
        if ranges.len() == most {
            ranges.push(0..end);
            break;
        }
        let start =
            text[..end].char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(i, c)| i + c.len_utf8());
        ranges.push(start..end);
        end = start;
    }
    ranges.reverse();
    ranges
}

fn split_at(text: &str, separator: &str, most: usize, from_right: bool) -> Vec<Range<usize>> {
    let mut cuts: Vec<usize> = if from_right {
        let mut cuts: Vec<usize> = text.rmatch_indices(separator).map(|(i, _)| i).take(most).collect();
        cuts.reverse();
        cuts
    } else {
        text.match_indices(separator).map(|(i, _)| i).take(most).collect()
    };
    cuts.push(text.len());
    let mut from = 0;
    cuts.into_iter()
        .map(|cut| {
            let range = from..cut;
            from = cut + separator.len();
            range
        })
        .collect()
}

/// Returns the byte ranges of the lines, like `str.splitlines`. If `keep` is true, they include the line ends.
pub fn lines(text: &str, keep: bool) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut from = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends =
            matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
        if !ends {
            continue;
        }
        let mut next = at + c.len_utf8();
        if c == '\r' && matches!(chars.peek(), Some((_, '\n'))) {
            chars.next();
            next += 1;
        }
        ranges.push(from..if keep { next } else { at });
        from = next;
    }
    if from < text.len() {
        ranges.push(from..text.len());
    }
    ranges
}
