//! `text.format(…)`: Python's format strings and format specifications.

use super::calls::Call;
use super::limits::{Result, fail};
use super::numbers;
use super::operators;
use super::print;
use super::run::{Run, short};
use super::text::{Builder, Text};
use super::value::Value;

/// Computes `format.format(…)`.
pub fn format(run: &Run<'_>, format: &Text, call: &Call) -> Result<Text> {
    let mut out = Builder::default();
    let mut fields = Fields { run, call, next: Some(0), numbered: false };
    fields.expand(format, 2, &mut out)?;
    Ok(out.finish())
}

struct Fields<'a> {
    run: &'a Run<'a>,
    call: &'a Call,
    /// Index of the argument of the next field without a number; `None` after a field with a number.
    next: Option<usize>,
    numbered: bool,
}

impl Fields<'_> {
    /// Writes `format` with its fields replaced by their values. `depth` is the number of nesting levels that are
    /// allowed.
    fn expand(&mut self, format: &Text, depth: usize, out: &mut Builder) -> Result<()> {
        if depth == 0 {
            return fail("Max string recursion exceeded");
        }
        let budget = &self.run.budget;
        let whole = format.as_str();
        budget.scan(whole.len())?;
        let mut at = 0;
        while let Some(found) = whole[at..].find(['{', '}']) {
            let brace = at + found;
            out.push_range(budget, format, at..brace)?;
            let doubled = whole.as_bytes().get(brace + 1) == Some(&whole.as_bytes()[brace]);
            if doubled {
                out.push_range(budget, format, brace..brace + 1)?;
                at = brace + 2;
                continue;
            }
            if whole.as_bytes()[brace] == b'}' {
                return fail("Single '}' encountered in format string");
            }
            let Some(end) = field_end(&whole[brace + 1..]) else {
                return fail("expected '}' before end of string");
            };
            let field = format.slice(budget, brace + 1..brace + 1 + end)?;
            self.field(&field, depth, out)?;
            at = brace + end + 2;
        }
        out.push_range(budget, format, at..whole.len())
    }

    /// Writes the value of a field `name!conversion:specification`.
    fn field(&mut self, field: &Text, depth: usize, out: &mut Builder) -> Result<()> {
        let budget = &self.run.budget;
        let whole = field.as_str();
        budget.scan(whole.len())?;
        let mut inside = false;
        let colon_or_mark = whole.find(|c| {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                _ => {}
            }
            !inside && matches!(c, ':' | '!')
        });
        let name = &whole[..colon_or_mark.unwrap_or(whole.len())];
        let mut rest = &whole[name.len()..];
        let value = self.value(name)?;
        let mut conversion = None;
        if let Some(after) = rest.strip_prefix('!') {
            conversion = after.chars().next();
            rest = &after[conversion.map_or(0, char::len_utf8)..];
            if conversion.is_none() || !(rest.is_empty() || rest.starts_with(':')) {
                return fail("expected ':' after conversion specifier");
            }
        }
        let value = match conversion {
            None => value,
            Some('s') => Value::Str(value.to_text(self.run)?),
            Some('r' | 'a') => {
                let mut inner = Builder::default();
                print::repr(self.run, &value, &mut inner)?;
                Value::Str(inner.finish())
            }
            Some(other) => return fail(format!("Unknown conversion specifier {other:?}")),
        };
        let mut style = Builder::default();
        if rest.len() > 1 {
            let begin = whole.len() - rest.len() + 1;
            self.expand(&field.slice(budget, begin..whole.len())?, depth - 1, &mut style)?;
        }
        specified(self.run, &value, &style.finish(), out)
    }

    fn value(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let number = if first.is_empty() {
            if self.numbered {
                return fail("cannot switch from manual field specification to automatic field numbering");
            }
            let number = self.next.unwrap_or(0);
            self.next = Some(number + 1);
            Some(number)
        } else if first.bytes().all(|b| b.is_ascii_digit()) {
            if self.next.is_some_and(|next| next > 0) {
                return fail("cannot switch from automatic field numbering to manual field specification");
            }
            self.numbered = true;
            Some(first.parse().unwrap_or(usize::MAX))
        } else {
            None
        };
        let found = match number {
            Some(number) => self.call.positional.get(number).cloned(),
            None => self.call.named.iter().find(|(n, _)| **n == *first).map(|(_, value)| value.clone()),
        };
        let Some(mut value) = found else {
            return fail(format!("no value for the field '{}'", short(name)));
        };
        while !rest.is_empty() {
            self.run.budget.steps(1)?;
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.run.member(&value, &after[..end])?;
                rest = &after[end..];
            } else if let Some((index, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
                let index = match index.parse::<i128>() {
                    Ok(number) if index.bytes().all(|b| b.is_ascii_digit()) => Value::Int(number),
                    _ => Value::own(index),
                };
                value = self.run.item(&value, &index)?;
                rest = after;
            } else {
                return fail("Missing ']' in format string");
            }
        }
        Ok(value)
    }
}

/// Returns the offset of the `}` that ends a field. `text` begins after the `{` of this field.
fn field_end(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.find(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

/// A format specification.
#[derive(Default)]
struct Style {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: i128,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn parse(text: &str) -> Result<Style> {
    let mut style = Style::default();
    let mut rest = text;
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    let is_align = |c: Option<char>| c.is_some_and(|c| "<>=^".contains(c));
    if let (Some(fill), true) = (first, is_align(second)) {
        (style.fill, style.align) = (Some(fill), second);
        rest = &rest[fill.len_utf8() + 1..];
    } else if is_align(first) {
        style.align = first;
        rest = &rest[1..];
    }
    let mut take = |wanted: &str| {
        let c = rest.chars().next().filter(|c| wanted.contains(*c))?;
        rest = &rest[c.len_utf8()..];
        Some(c)
    };
    style.sign = take("+- ");
    take("z");
    style.alternate = take("#").is_some();
    if take("0").is_some() {
        style.fill = style.fill.or(Some('0'));
        style.align = style.align.or(Some('='));
    }
    let number = |take: &mut dyn FnMut(&str) -> Option<char>| {
        let mut value = None;
        while let Some(digit) = take("0123456789") {
            let digit = i128::from(digit.to_digit(10).unwrap_or(0));
            value = Some(value.unwrap_or(0i128).saturating_mul(10).saturating_add(digit));
        }
        value
    };
    style.width = number(&mut take).unwrap_or(0);
    style.grouping = take(",_");
    if take(".").is_some() {
        let Some(precision) = number(&mut take) else { return fail("Format specifier missing precision") };
        style.precision = Some(usize::try_from(precision).unwrap_or(usize::MAX));
    }
    let mut last = rest.chars();
    style.kind = last.next();
    if last.next().is_some() {
        return fail("Invalid format specifier");
    }
    Ok(style)
}

/// Writes `format(value, specification)`.
fn specified(run: &Run<'_>, value: &Value, specification: &Text, out: &mut Builder) -> Result<()> {
    if specification.as_str().is_empty() {
        return print::display(run, value, out);
    }
    run.budget.scan(specification.as_str().len())?;
    let style = parse(specification.as_str())?;
    let unknown =
        |kind: char| fail(format!("Unknown format code {kind:?} for object of type '{}'", value.type_name()));
    match value {
        Value::Str(text) => {
            if let Some(kind) = style.kind.filter(|kind| *kind != 's') {
                return unknown(kind);
            }
            if style.sign.is_some()
                || style.alternate
                || style.grouping.is_some()
                || style.align == Some('=') && style.fill != Some('0')
            {
                return fail("the format specification does not suit a string");
            }
            let text = match style.precision {
                Some(precision) => operators::characters(run, text, 0, precision)?,
                None => text.clone(),
            };
            let align = style.align.filter(|a| *a != '=').unwrap_or('<');
            padded(run, "", &text, align, &style, out)
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            let (negative, digits, prefix) = number(value, &style)?;
            let sign = match (negative, style.sign) {
                (true, _) => "-",
                (false, Some('+')) => "+",
                (false, Some(' ')) => " ",
                _ => "",
            };
            padded(
                run,
                &format!("{sign}{prefix}"),
                &Text::own(&digits),
                style.align.unwrap_or('>'),
                &style,
                out,
            )
        }
        Value::Undefined(_) => fail("unsupported format string passed to Undefined.__format__"),
        _ => fail(format!("unsupported format string passed to {}.__format__", value.type_name())),
    }
}

/// Returns true if a number is negative, the digits of the number, and their prefix.
fn number(value: &Value, style: &Style) -> Result<(bool, String, &'static str)> {
    let kind = style.kind;
    let group = |text: String, size: usize| match style.grouping {
        Some(separator) => numbers::grouped(&text, separator, size),
        None => text,
    };
    if let (Some(i), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c')) = (value.index(), kind) {
        if style.precision.is_some() {
            return fail("Precision not allowed in integer format specifier");
        }
        if matches!(value, Value::Bool(_)) && kind.is_none() {
            return Ok((false, i.to_string(), ""));
        }
        if kind == Some('c') {
            let c = u32::try_from(i).ok().and_then(char::from_u32);
            return c.map_or_else(|| fail("%c arg not in range"), |c| Ok((false, c.to_string(), "")));
        }
        let kind = kind.unwrap_or('d');
        let (digits, prefix) = numbers::integer(i.unsigned_abs(), kind, style.alternate);
        return Ok((i < 0, group(digits, if matches!(kind, 'd' | 'n') { 3 } else { 4 }), prefix));
    }
    let f = operators::float(value).unwrap_or(f64::NAN);
    let negative = f.is_sign_negative() && !f.is_nan();
    let text = match kind {
        None if style.precision.is_none() => numbers::shortest(f),
        None => {
            // Like `g`, but with at least one digit after the decimal point.
            let text = numbers::float(f, 'g', style.precision.unwrap_or(6), style.alternate)?;
            if f.is_finite() && !text.contains(['.', 'e']) { text + ".0" } else { text }
        }
        Some('n') => numbers::float(f, 'g', style.precision.unwrap_or(6), style.alternate)?,
        Some('%') => numbers::float(f * 100.0, 'f', style.precision.unwrap_or(6), style.alternate)? + "%",
        Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G')) => {
            numbers::float(f, kind, style.precision.unwrap_or(6), style.alternate)?
        }
        Some(kind) => {
            return fail(format!("Unknown format code {kind:?} for object of type '{}'", value.type_name()));
        }
    };
    Ok((negative, group(text, 3), ""))
}

fn padded(
    run: &Run<'_>,
    before: &str,
    text: &Text,
    align: char,
    style: &Style,
    out: &mut Builder,
) -> Result<()> {
    let budget = &run.budget;
    let missing = style.width.saturating_sub((before.len() + text.chars()) as i128).max(0);
    let fill = Text::own(style.fill.unwrap_or(' ').encode_utf8(&mut [0; 4]));
    let left = match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    if align == '=' {
        out.own(budget, before)?;
    }
    out.push_text(budget, &operators::repeat(run, &fill, left)?)?;
    if align != '=' {
        out.own(budget, before)?;
    }
    out.push_text(budget, text)?;
    out.push_text(budget, &operators::repeat(run, &fill, missing - left)?)
}
