//! Converts JSON to values, and values to JSON like Python's `json.dumps`.

use super::limits::{Result, fail};
use super::print;
use super::run::Run;
use super::text::{Builder, Text};
use super::value::{Dict, Value, order};
use serde_json::Value as Json;
use std::rc::Rc;

/// Converts JSON to a value. Every string in it counts as a user's text.
pub fn from_json(run: &Run<'_>, json: &Json) -> Result<Value> {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(i), _) => Value::Int(i.into()),
            (_, Some(i)) => Value::Int(i.into()),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => {
            run.budget.allocate(text.len())?;
            Value::Str(Text::user(text))
        }
        Json::Array(values) => {
            let values = values.iter().map(|v| from_json(run, v)).collect::<Result<_>>()?;
            Value::list(run, values)?
        }
        Json::Object(entries) => {
            let mut dict = Dict::new();
            for (key, value) in entries {
                run.budget.allocate(key.len())?;
                dict.set(run, Value::Str(Text::user(key)), from_json(run, value)?)?;
            }
            Value::Dict(Rc::new(dict))
        }
    })
}

/// The options of `tojson`.
pub struct Style {
    pub ascii: bool,
    pub indent: Option<Text>,
    pub item: Text,
    pub key: Text,
    pub sort: bool,
}

/// Returns `json.dumps(value, …)`.
pub fn dumps(run: &Run<'_>, value: &Value, style: &Style) -> Result<Text> {
    let mut out = Builder::default();
    write(run, value, style, 0, &mut out)?;
    Ok(out.finish())
}

fn write(run: &Run<'_>, value: &Value, style: &Style, level: usize, out: &mut Builder) -> Result<()> {
    let budget = &run.budget;
    budget.steps(1)?;
    match value {
        Value::None => out.own(budget, "null"),
        Value::Bool(b) => out.own(budget, if *b { "true" } else { "false" }),
        Value::Int(i) => out.own(budget, &i.to_string()),
        Value::Float(f) => out.own(budget, &number(*f)),
        Value::Str(text) => string(run, text, style.ascii, out),
        Value::List(items) | Value::Tuple(items) => {
            if items.values().is_empty() {
                return out.own(budget, "[]");
            }
            out.own(budget, "[")?;
            for (i, value) in items.values().iter().enumerate() {
                if i > 0 {
                    out.push_text(budget, &style.item)?;
                }
                line(run, style, level + 1, out)?;
                write(run, value, style, level + 1, out)?;
            }
            line(run, style, level, out)?;
            out.own(budget, "]")
        }
        Value::Dict(dict) => {
            if dict.entries().is_empty() {
                return out.own(budget, "{}");
            }
            budget.values(dict.entries().len())?;
            let mut entries: Vec<&(Value, Value)> = dict.entries().iter().collect();
            if style.sort {
                entries = sorted(entries, &|a, b| less(run, &a.0, &b.0))?;
            }
            out.own(budget, "{")?;
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push_text(budget, &style.item)?;
                }
                line(run, style, level + 1, out)?;
                let key = match key {
                    Value::Str(text) => text.clone(),
                    Value::None => Text::own("null"),
                    Value::Bool(b) => Text::own(if *b { "true" } else { "false" }),
                    Value::Int(i) => Text::own(&i.to_string()),
                    Value::Float(f) => Text::own(&number(*f)),
                    _ => {
                        return fail(format!(
                            "keys must be str, int, float, bool or None, not {}",
                            key.type_name()
                        ));
                    }
                };
                string(run, &key, style.ascii, out)?;
                out.push_text(budget, &style.key)?;
                write(run, value, style, level + 1, out)?;
            }
            line(run, style, level, out)?;
            out.own(budget, "}")
        }
        _ => fail(format!("Object of type {} is not JSON serializable", value.type_name())),
    }
}

fn line(run: &Run<'_>, style: &Style, level: usize, out: &mut Builder) -> Result<()> {
    let Some(indent) = &style.indent else { return Ok(()) };
    out.own(&run.budget, "\n")?;
    for _ in 0..level {
        out.push_text(&run.budget, indent)?;
    }
    Ok(())
}

fn number(f: f64) -> String {
    match f {
        _ if f.is_nan() => "NaN".into(),
        _ if f == f64::INFINITY => "Infinity".into(),
        _ if f == f64::NEG_INFINITY => "-Infinity".into(),
        _ => print::float(f),
    }
}

fn string(run: &Run<'_>, text: &Text, ascii: bool, out: &mut Builder) -> Result<()> {
    let budget = &run.budget;
    out.own(budget, "\"")?;
    for (piece, user) in text.pieces(0..text.as_str().len()) {
        budget.allocate(2 * piece.len())?;
        let mut escaped = String::with_capacity(piece.len());
        for c in piece.chars() {
            match c {
                '"' => escaped.push_str("\\\""),
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                '\t' => escaped.push_str("\\t"),
                '\x08' => escaped.push_str("\\b"),
                '\x0c' => escaped.push_str("\\f"),
                '\0'..='\x1f' => escaped.push_str(&format!("\\u{:04x}", c as u32)),
                '\x7f' if ascii => escaped.push(c),
                _ if ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        escaped.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => escaped.push(c),
            }
        }
        out.push(budget, &escaped, user)?;
    }
    out.own(budget, "\"")
}

/// Sorts values. Equal values keep their order. As in Python, the only comparison is `less(later, earlier)`. The
/// comparison may fail, and it does not have to be a consistent order.
pub fn sorted<T>(mut values: Vec<T>, less: &impl Fn(&T, &T) -> Result<bool>) -> Result<Vec<T>> {
    if values.len() < 2 {
        return Ok(values);
    }
    let right = sorted(values.split_off(values.len() / 2), less)?;
    let left = sorted(values, less)?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(earlier), Some(later)) = (left.peek(), right.peek()) {
        let next = if less(later, earlier)? { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

/// Returns `a < b`.
pub fn less(run: &Run<'_>, a: &Value, b: &Value) -> Result<bool> {
    Ok(order(run, a, b, "<")? == Some(std::cmp::Ordering::Less))
}
