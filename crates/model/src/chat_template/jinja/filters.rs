//! Filters of texts and numbers, and the names of all filters. The filters of sequences are in `sequences.rs`.
//! Source: `jinja2/filters.py`.

use super::calls::Call;
use super::limits::{Error, Result, fail};
use super::operators;
use super::percent;
use super::print;
use super::run::{Run, short};
use super::sequences;
use super::strings;
use super::text::{Builder, Text};
use super::value::Value;

const NAMES: [&str; 52] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Returns true if there is a filter with this name.
pub fn exists(name: &str) -> bool {
    NAMES.contains(&name) || matches!(name, "random" | "urlize")
}

/// Computes `value | name(…)`.
pub fn apply(run: &Run<'_>, name: &str, value: Value, call: Call) -> Result<Value> {
    let budget = &run.budget;
    budget.steps(1)?;
    match name {
        "tojson" => run.tojson(&value, call),
        "default" | "d" => {
            let [default, boolean] = call.bind(name, ["default_value", "boolean"], 0)?;
            let replaces = matches!(value, Value::Undefined(_))
                || (boolean.is_some_and(|b| b.is_true()) && !value.is_true());
            Ok(if replaces { default.unwrap_or_else(|| Value::own("")) } else { value })
        }
        "string" => {
            call.nothing(name)?;
            value.to_text(run).map(Value::Str)
        }
        "safe" => {
            call.nothing(name)?;
            Ok(Value::Str(value.to_text(run)?.marked(true)))
        }
        "lower" | "upper" | "capitalize" => {
            call.nothing(name)?;
            let text = value.to_text(run)?;
            budget.scan(text.as_str().len())?;
            strings::change_case(run, &text, name).map(Value::Str)
        }
        "title" => {
            call.nothing(name)?;
            title(run, &value.to_text(run)?)
        }
        "trim" => {
            let [chars] = call.bind(name, ["chars"], 0)?;
            let text = value.to_text(run)?;
            match chars {
                None | Some(Value::None) => strings::strip(run, &text, None, true, true).map(Value::Str),
                Some(Value::Str(chars)) => {
                    strings::strip(run, &text, Some(&chars), true, true).map(Value::Str)
                }
                Some(_) => fail("strip arg must be None or str"),
            }
        }
        "replace" => {
            let [old, new, count] = call.bind(name, ["old", "new", "count"], 2)?;
            let most = match count {
                None | Some(Value::None) => usize::MAX,
                Some(count) => match count.index() {
                    Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
                    None => return fail("count must be an integer"),
                },
            };
            let old = old.unwrap_or(Value::None).to_text(run)?;
            let new = new.unwrap_or(Value::None).to_text(run)?;
            let text = value.to_text(run)?;
            budget.scan(text.as_str().len())?;
            strings::replace(run, &text, &old, &new, most).map(|text| Value::Str(text.marked(false)))
        }
        "indent" => indent(run, value, call),
        "center" => {
            let [width] = call.bind(name, ["width"], 0)?;
            let Some(width) = width.unwrap_or(Value::Int(80)).index() else {
                return fail("width must be an integer");
            };
            strings::center(run, &value.to_text(run)?, width).map(Value::Str)
        }
        "truncate" => truncate(run, &value, call),
        "wordcount" => {
            call.nothing(name)?;
            let text = value.to_text(run)?;
            budget.scan(text.as_str().len())?;
            let words = text.as_str().split(|c: char| c != '_' && !c.is_alphanumeric());
            Ok(Value::Int(words.filter(|word| !word.is_empty()).count() as i128))
        }
        "format" => {
            if !call.positional.is_empty() && !call.named.is_empty() {
                return fail("can't handle positional and keyword arguments at the same time");
            }
            let text = value.to_text(run)?;
            let values = if call.named.is_empty() {
                Value::tuple(run, call.positional)?
            } else {
                let mut dict = super::value::Dict::new();
                for (key, value) in call.named {
                    dict.set(run, Value::own(&key), value)?;
                }
                Value::Dict(std::rc::Rc::new(dict))
            };
            percent::format(run, &text, &values)
        }
        "escape" | "e" | "forceescape" => {
            call.nothing(name)?;
            let text = value.to_text(run)?;
            let text = if name == "forceescape" { text.marked(false) } else { text };
            text.escaped(budget).map(Value::Str)
        }
        "urlencode" => {
            call.nothing(name)?;
            let Value::Str(text) = value else { return fail("urlencode takes a string") };
            budget.allocate(3 * text.as_str().len())?;
            let encoded = text.map(budget, |piece| {
                let byte = |b: u8| match b {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                        char::from(b).to_string()
                    }
                    _ => format!("%{b:02X}"),
                };
                piece.bytes().map(byte).collect()
            })?;
            Ok(Value::Str(encoded))
        }
        "pprint" => {
            call.nothing(name)?;
            let mut out = Builder::default();
            print::repr(run, &value, &mut out)?;
            Ok(Value::Str(out.finish()))
        }
        "int" => {
            let [default, base] = call.bind(name, ["default", "base"], 0)?;
            let base = base.and_then(|b| b.index()).unwrap_or(10);
            int(run, &value, default.unwrap_or(Value::Int(0)), base)
        }
        "float" => {
            let [default] = call.bind(name, ["default"], 0)?;
            value.defined()?;
            Ok(to_float(&value).map_or(default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => {
            call.nothing(name)?;
            match value.defined()? {
                Value::Float(f) => Ok(Value::Float(f.abs())),
                _ => match value.index() {
                    Some(i) if i < 0 => operators::minus(&value),
                    Some(i) => Ok(Value::Int(i)),
                    None => fail(format!("bad operand type for abs(): '{}'", value.type_name())),
                },
            }
        }
        "round" => round(&value, call),
        "filesizeformat" => {
            let [binary] = call.bind(name, ["binary"], 0)?;
            let Some(bytes) = to_float(&value) else { return fail("could not convert to float") };
            Ok(Value::own(&file_size(bytes, binary.is_some_and(|b| b.is_true()))))
        }
        "attr" => {
            let [attribute] = call.bind(name, ["name"], 1)?;
            let Some(Value::Str(attribute)) = attribute else { return fail("attribute name must be string") };
            match &value {
                Value::Dict(_) => {
                    let found = run.member(&value, attribute.as_str())?;
                    if matches!(found, Value::Method(_)) {
                        Ok(found)
                    } else {
                        run.undefined(&["no such attribute"])
                    }
                }
                _ => run.member(&value, attribute.as_str()),
            }
        }
        "wordwrap" | "xmlattr" | "striptags" | "random" | "urlize" => {
            fail(format!("the filter '{name}' is not supported in chat templates"))
        }
        _ => match sequences::apply(run, name, &value, call)? {
            Some(value) => Ok(value),
            None => fail(format!("No filter named '{}'.", short(name))),
        },
    }
}

fn title(run: &Run<'_>, text: &Text) -> Result<Value> {
    let budget = &run.budget;
    budget.allocate(3 * text.as_str().len())?;
    let mut out = Builder::default();
    let mut begins = true;
    for (piece, user) in text.pieces(0..text.as_str().len()) {
        let mut changed = String::with_capacity(piece.len());
        for c in piece.chars() {
            if super::lexer::is_space(c) || "-({[<".contains(c) {
                begins = true;
                changed.push(c);
            } else if begins {
                changed.extend(c.to_uppercase());
                begins = false;
            } else {
                changed.extend(c.to_lowercase());
            }
        }
        out.push(budget, &changed, user)?;
    }
    Ok(Value::Str(out.finish()))
}

fn indent(run: &Run<'_>, value: Value, call: Call) -> Result<Value> {
    let budget = &run.budget;
    let [width, first, blank] = call.bind("indent", ["width", "first", "blank"], 0)?;
    let Value::Str(text) = value.defined()? else {
        return fail(format!("indent takes a string, not {}", value.type_name()));
    };
    let indention = match width {
        Some(Value::Str(text)) => text,
        None => Text::own("    "),
        Some(value) => match value.index() {
            Some(width) => operators::repeat(run, &Text::own(" "), width)?,
            None => return fail("the width of indent must be an integer or a string"),
        },
    };
    let blank = blank.is_some_and(|b| b.is_true());
    let whole = text.as_str();
    budget.allocate(2 * whole.len() + 16)?;
    // Jinja2 adds a line end before it splits the text into lines.
    let lines = strings::lines(&format!("{whole}\n"), false);
    let mut out = Builder::default();
    if first.is_some_and(|f| f.is_true()) {
        out.push_text(budget, &indention)?;
    }
    for (i, line) in lines.into_iter().enumerate() {
        budget.steps(1)?;
        if i > 0 {
            out.own(budget, "\n")?;
            if blank || !line.is_empty() {
                out.push_text(budget, &indention)?;
            }
        }
        out.push_range(budget, text, line)?;
    }
    Ok(Value::Str(out.finish()))
}

fn truncate(run: &Run<'_>, value: &Value, call: Call) -> Result<Value> {
    let [length, kill, end, leeway] = call.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let Value::Str(text) = value else { return fail("truncate takes a string") };
    let number = |value: Option<Value>, default: i128| match value {
        None | Some(Value::None) => Ok(default),
        Some(value) => value.index().map_or_else(|| fail("length must be an integer"), Ok),
    };
    let end = end.map_or(Ok(Text::own("...")), |end| end.to_text(run))?;
    let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
    let kept = length - end.chars() as i128;
    if kept < 0 || leeway < 0 {
        return fail("expected length >= the length of the end");
    }
    run.budget.scan(text.as_str().len())?;
    if text.chars() as i128 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let mut start = operators::characters(run, text, 0, kept as usize)?;
    if !kill.is_some_and(|k| k.is_true())
        && let Some(space) = start.as_str().rfind(' ')
    {
        start = start.slice(&run.budget, 0..space)?;
    }
    let mut out = Builder::default();
    out.push_text(&run.budget, &start)?;
    out.push_text(&run.budget, &end)?;
    Ok(Value::Str(out.finish()))
}

/// Converts a value to a float, like Python's `float(value)`.
fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Str(text) => {
            let text = text.as_str().trim_matches(super::lexer::is_space);
            let valid = text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
            if !valid
                || text.starts_with('_')
                || text.ends_with('_')
                || text.contains("__")
                || text.len() > 4096
            {
                return None;
            }
            text.replace('_', "").parse().ok()
        }
        _ => operators::float(value),
    }
}

fn int(run: &Run<'_>, value: &Value, default: Value, base: i128) -> Result<Value> {
    let whole = |f: f64| {
        if f.is_finite() && f.abs() < 1e38 { Some(Value::Int(f as i128)) } else { None }
    };
    match value.defined()? {
        Value::Str(text) => {
            run.budget.scan(text.as_str().len())?;
            if let Some(i) = parse_int(text.as_str(), base) {
                return Ok(Value::Int(i));
            }
            Ok(to_float(value).and_then(whole).unwrap_or(default))
        }
        Value::Float(f) => Ok(whole(*f).unwrap_or(default)),
        _ => Ok(value.index().map_or(default, Value::Int)),
    }
}

fn parse_int(text: &str, base: i128) -> Option<i128> {
    let text = text.trim_matches(super::lexer::is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixes = [(16, "0x"), (16, "0X"), (8, "0o"), (8, "0O"), (2, "0b"), (2, "0B")];
    let found = prefixes.iter().find(|(of, prefix)| (base == *of || base == 0) && digits.starts_with(prefix));
    let (base, digits) = match found {
        Some((of, _)) => (*of, &digits[2..]),
        None if base == 0 => (10, digits),
        None => (base, digits),
    };
    if digits.starts_with(['_', '+', '-'])
        || digits.ends_with('_')
        || digits.contains("__")
        || digits.len() > 4096
    {
        return None;
    }
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
    let value = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    Some(if negative { -value } else { value })
}

fn round(value: &Value, call: Call) -> Result<Value> {
    let [precision, method] = call.bind("round", ["precision", "method"], 0)?;
    let Some(precision) = precision.unwrap_or(Value::Int(0)).index() else {
        return fail("precision must be an integer");
    };
    let method = match &method {
        None => "common",
        Some(Value::Str(method)) => method.as_str(),
        Some(_) => return fail("method must be common, ceil or floor"),
    };
    let Some(f) = operators::float(value.defined()?) else {
        return fail(format!("type {} doesn't define __round__ method", value.type_name()));
    };
    match (method, value.index()) {
        ("common", Some(i)) if precision >= 0 => Ok(Value::Int(i)),
        ("common", Some(i)) => {
            // Integers of more than 36 digits are not supported, so that the computations below cannot overflow.
            if precision < -36 || i.unsigned_abs() > 10u128.pow(36) {
                return Err(Error::limit("an integer of more than 36 digits is rounded"));
            }
            let unit = 10i128.pow(precision.unsigned_abs() as u32);
            // Round half to even.
            let (quotient, rest) = (i.div_euclid(unit), i.rem_euclid(unit));
            let up = rest * 2 > unit || (rest * 2 == unit && quotient % 2 != 0);
            Ok(Value::Int((quotient + i128::from(up)) * unit))
        }
        ("common", None) => {
            if !f.is_finite() || precision > 300 {
                return Ok(value.clone());
            }
            if precision >= 0 {
                // As in Python, formatting rounds the exact value half to even.
                let text = format!("{f:.*}", precision as usize);
                return Ok(Value::Float(text.parse().unwrap_or(f)));
            }
            let unit = 10f64.powi(i32::try_from(precision.unsigned_abs()).unwrap_or(i32::MAX));
            Ok(Value::Float(if unit.is_finite() { (f / unit).round_ties_even() * unit } else { 0.0 }))
        }
        ("ceil" | "floor", _) => {
            let scale = 10f64.powi(i32::try_from(precision).unwrap_or(i32::MAX));
            let scaled = f * scale;
            Ok(Value::Float(if method == "ceil" { scaled.ceil() } else { scaled.floor() } / scale))
        }
        _ => fail("method must be common, ceil or floor"),
    }
}

fn file_size(bytes: f64, binary: bool) -> String {
    let (base, prefixes) = if binary {
        (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if bytes == 1.0 {
        return "1 Byte".into();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc());
    }
    let mut unit = base;
    for prefix in &prefixes[..7] {
        if bytes < unit * base {
            return format!("{:.1} {prefix}", bytes / unit);
        }
        unit *= base;
    }
    format!("{:.1} {}", bytes / unit, prefixes[7])
}
