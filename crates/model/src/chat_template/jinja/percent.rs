//! `text % values`: printf-style formatting of Python's strings.

use super::limits::{Result, fail};
use super::numbers;
use super::operators;
use super::print;
use super::run::{Run, short};
use super::text::{Builder, Text};
use super::value::Value;

/// Computes `format % values`.
pub fn format(run: &Run<'_>, format: &Text, values: &Value) -> Result<Value> {
    let budget = &run.budget;
    let whole = format.as_str();
    budget.scan(4 * whole.len())?;
    let list;
    let given: &[Value] = match values {
        Value::Tuple(items) => items.values(),
        other => {
            list = [other.clone()];
            &list
        }
    };
    let mut arguments = given.iter();
    let mut out = Builder::default();
    let mut cursor = Cursor { text: whole, at: 0 };
    loop {
        let from = cursor.at;
        let Some(found) = whole[from..].find('%') else {
            out.push_range(budget, format, from..whole.len())?;
            break;
        };
        out.push_range(budget, format, from..from + found)?;
        cursor.at = from + found + 1;
        let mut named = None;
        if cursor.take('(') {
            let Some(key) = cursor.key() else { return fail("incomplete format key") };
            let Value::Dict(dict) = values else { return fail("format requires a mapping") };
            let Some(value) = dict.get_str(run, key)? else {
                return fail(format!("KeyError: '{}'", short(key)));
            };
            named = Some(value);
        }
        let mut style = Style::default();
        while let Some(flag) = cursor.take_one_of("-+ 0#") {
            match flag {
                '-' => style.left = true,
                '+' => style.plus = true,
                ' ' => style.space = true,
                '0' => style.zero = true,
                _ => style.alternate = true,
            }
        }
        let mut number = |cursor: &mut Cursor<'_>| -> Result<Option<i128>> {
            if !cursor.take('*') {
                return Ok(cursor.number());
            }
            match arguments.next().map(Value::index) {
                Some(Some(width)) => Ok(Some(width)),
                Some(None) => fail("* wants int"),
                None => fail("not enough arguments for format string"),
            }
        };
        if let Some(width) = number(&mut cursor)? {
            style.left |= width < 0;
            style.width = width.saturating_abs();
        }
        if cursor.take('.') {
            let precision = number(&mut cursor)?.unwrap_or(0).max(0);
            style.precision = Some(usize::try_from(precision).unwrap_or(usize::MAX));
        }
        while cursor.take_one_of("hlL").is_some() {}
        let Some(kind) = cursor.next() else { return fail("incomplete format") };
        if kind == '%' && cursor.at == from + found + 2 {
            out.own(budget, "%")?;
            continue;
        }
        let Some(value) = named.or_else(|| arguments.next()) else {
            return fail("not enough arguments for format string");
        };
        convert(run, value, kind, &style, format.is_markup(), &mut out)?;
    }
    // As in Python, a value that has items counts as a mapping. A format does not have to use every key of a mapping.
    let mapping = matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(..) | Value::Undefined(_));
    if !mapping && arguments.next().is_some() {
        return fail("not all arguments converted during string formatting");
    }
    Ok(Value::Str(out.finish().marked(format.is_markup())))
}

/// A position in a format string.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn take_one_of(&mut self, wanted: &str) -> Option<char> {
        if wanted.contains(self.peek()?) { self.next() } else { None }
    }

    fn number(&mut self) -> Option<i128> {
        let mut value = None;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.at += 1;
            value = Some(value.unwrap_or(0i128).saturating_mul(10).saturating_add(digit.into()));
        }
        value
    }

    /// Takes the key of `%(key)s` and its `)`. The `(` is already taken. Parentheses inside the key must balance.
    fn key(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let mut depth = 1;
        for (i, c) in rest.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.at += i + 1;
                return Some(&rest[..i]);
            }
        }
        None
    }
}

#[derive(Default)]
struct Style {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: i128,
    precision: Option<usize>,
}

fn convert(
    run: &Run<'_>,
    value: &Value,
    kind: char,
    style: &Style,
    markup: bool,
    out: &mut Builder,
) -> Result<()> {
    let budget = &run.budget;
    let sign = |negative: bool| match (negative, style.plus, style.space) {
        (true, _, _) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    match kind {
        's' | 'r' | 'a' | 'c' => {
            let mut inner = Builder::default();
            match (kind, value) {
                ('s', _) if markup => inner.push_text(budget, &value.to_text(run)?.escaped(budget)?)?,
                ('s', _) => print::display(run, value, &mut inner)?,
                ('c', Value::Str(text)) if text.chars() == 1 => inner.push_text(budget, text)?,
                ('c', _) => {
                    let code = value.index().and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32);
                    let Some(c) = code else { return fail("%c requires int or char") };
                    inner.own(budget, c.encode_utf8(&mut [0; 4]))?;
                }
                _ => print::repr(run, value, &mut inner)?,
            }
            let mut text = inner.finish();
            if kind == 'a' {
                text = text.map(budget, |piece| {
                    piece
                        .chars()
                        .map(|c| if c.is_ascii() { c.to_string() } else { print::escape(c) })
                        .collect()
                })?;
            }
            if let Some(precision) = style.precision.filter(|_| kind != 'c') {
                text = operators::characters(run, &text, 0, precision)?;
            }
            padded(run, "", &text, style, false, out)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let integer = match value.defined()? {
                Value::Float(f) if matches!(kind, 'd' | 'i' | 'u') && f.is_finite() => *f as i128,
                other => match other.index() {
                    Some(i) => i,
                    None => {
                        let kind_of = value.type_name();
                        return fail(format!("%{kind} format: a real number is required, not {kind_of}"));
                    }
                },
            };
            let (mut digits, prefix) = numbers::integer(integer.unsigned_abs(), kind, style.alternate);
            if let Some(precision) = style.precision {
                let precision = numbers::digits(precision)?;
                digits = format!("{digits:0>precision$}");
            }
            let before = format!("{}{prefix}", sign(integer < 0));
            padded(run, &before, &Text::own(&digits), style, style.zero, out)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let f = match value.defined()? {
                Value::Str(_) => None,
                other => operators::float(other),
            };
            let Some(f) = f else {
                return fail(format!("must be real number, not {}", value.type_name()));
            };
            let text = numbers::float(f, kind, style.precision.unwrap_or(6), style.alternate)?;
            let negative = f.is_sign_negative() && !f.is_nan();
            padded(run, sign(negative), &Text::own(&text), style, style.zero && f.is_finite(), out)
        }
        _ => fail(format!("unsupported format character {kind:?}")),
    }
}

fn padded(
    run: &Run<'_>,
    before: &str,
    text: &Text,
    style: &Style,
    zero: bool,
    out: &mut Builder,
) -> Result<()> {
    let budget = &run.budget;
    let missing = style.width.saturating_sub((before.len() + text.chars()) as i128);
    if style.left {
        out.own(budget, before)?;
        out.push_text(budget, text)?;
        return out.push_text(budget, &operators::repeat(run, &Text::own(" "), missing)?);
    }
    if zero {
        out.own(budget, before)?;
        out.push_text(budget, &operators::repeat(run, &Text::own("0"), missing)?)?;
    } else {
        out.push_text(budget, &operators::repeat(run, &Text::own(" "), missing)?)?;
        out.own(budget, before)?;
    }
    out.push_text(budget, text)
}
