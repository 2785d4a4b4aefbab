//! Writes values as Python prints them: `str` and `repr`.

use super::limits::Result;
use super::run::Run;
use super::text::{Builder, Text};
use super::value::{Function, Value};

/// Writes `str(value)`.
pub fn display(run: &Run<'_>, value: &Value, out: &mut Builder) -> Result<()> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Str(text) => out.push_text(&run.budget, text),
        _ => repr(run, value, out),
    }
}

/// Writes `repr(value)`.
pub fn repr(run: &Run<'_>, value: &Value, out: &mut Builder) -> Result<()> {
    let budget = &run.budget;
    budget.steps(1)?;
    let row = |open: &str, values: &[Value], close: &str, out: &mut Builder| -> Result<()> {
        out.own(budget, open)?;
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                out.own(budget, ", ")?;
            }
            repr(run, value, out)?;
        }
        out.own(budget, close)
    };
    match value {
        Value::Undefined(_) => out.own(budget, "Undefined"),
        Value::None => out.own(budget, "None"),
        Value::Bool(b) => out.own(budget, if *b { "True" } else { "False" }),
        Value::Int(i) => out.own(budget, &i.to_string()),
        Value::Float(f) => out.own(budget, &float(*f)),
        Value::Str(text) if text.is_markup() => {
            out.own(budget, "Markup(")?;
            quoted(run, text, out)?;
            out.own(budget, ")")
        }
        Value::Str(text) => quoted(run, text, out),
        Value::List(items) => row("[", items.values(), "]", out),
        Value::Tuple(items) if items.values().len() == 1 => row("(", items.values(), ",)", out),
        Value::Tuple(items) => row("(", items.values(), ")", out),
        Value::View(kind, items) => row(&format!("{kind}(["), items.values(), "])", out),
        Value::Dict(dict) => {
            out.own(budget, "{")?;
            for (i, (key, value)) in dict.entries().iter().enumerate() {
                if i > 0 {
                    out.own(budget, ", ")?;
                }
                repr(run, key, out)?;
                out.own(budget, ": ")?;
                repr(run, value, out)?;
            }
            out.own(budget, "}")
        }
        Value::Namespace(number) => budget.deeper(|| {
            out.own(budget, "<Namespace {")?;
            for (i, (name, value)) in run.namespace(*number).iter().enumerate() {
                if i > 0 {
                    out.own(budget, ", ")?;
                }
                quoted(run, &Text::own(name), out)?;
                out.own(budget, ": ")?;
                repr(run, value, out)?;
            }
            out.own(budget, "}>")
        }),
        Value::Range(start, step, length) => {
            let stop = start + step * *length as i128;
            let step = if *step == 1 { String::new() } else { format!(", {step}") };
            out.own(budget, &format!("range({start}, {stop}{step})"))
        }
        Value::Generator(_) => out.own(budget, "<generator object>"),
        Value::Macro(closure) => {
            let name = closure.definition.name.map(|name| run.name(name));
            out.own(
                budget,
                &name.map_or_else(|| "<Macro anonymous>".into(), |name| format!("<Macro '{name}'>")),
            )
        }
        Value::Function(function) => {
            let name = match function {
                Function::Range => "<function safe_range>",
                Function::Dict => "<class 'dict'>",
                Function::Namespace => "<class 'Namespace'>",
                Function::Cycler => "<class 'jinja2.utils.Cycler'>",
                Function::Joiner => "<class 'jinja2.utils.Joiner'>",
                Function::RaiseException => "<function raise_exception>",
                Function::StrftimeNow => "<function strftime_now>",
            };
            out.own(budget, name)
        }
        Value::Method(method) => {
            let kind = method.receiver.type_name();
            out.own(budget, &format!("<built-in method {} of {kind} object>", method.name))
        }
        Value::Loop(state) => {
            let length = state.items.values().len();
            out.own(budget, &format!("<LoopContext {}/{length}>", state.index.get() + 1))
        }
        Value::Cycler(_) => out.own(budget, "<Cycler object>"),
        Value::Joiner(_) => out.own(budget, "<Joiner object>"),
    }
}

/// Writes `repr` of a string.
fn quoted(run: &Run<'_>, text: &Text, out: &mut Builder) -> Result<()> {
    let budget = &run.budget;
    let whole = text.as_str();
    budget.scan(whole.len())?;
    let quote = if whole.contains('\'') && !whole.contains('"') { '"' } else { '\'' };
    let mut buffer = [0; 4];
    let marks = &*quote.encode_utf8(&mut buffer);
    out.own(budget, marks)?;
    for (piece, user) in text.pieces(0..whole.len()) {
        budget.allocate(2 * piece.len())?;
        let mut escaped = String::with_capacity(piece.len());
        for c in piece.chars() {
            match c {
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                '\t' => escaped.push_str("\\t"),
                _ if c == quote => escaped.extend(['\\', c]),
                _ if is_printable(c) => escaped.push(c),
                _ => escaped.push_str(&escape(c)),
            }
        }
        out.push(budget, &escaped, user)?;
    }
    out.own(budget, marks)
}

/// Returns the escape `\xNN`, `\uNNNN` or `\UNNNNNNNN` of a character.
pub fn escape(c: char) -> String {
    match c as u32 {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// Returns Python's `str.isprintable` for one character.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // `escape_debug` escapes the same characters. The letter before `c` prevents the escape of combining characters.
    let pair: String = ['a', c].into_iter().collect();
    pair.escape_debug().nth(1) != Some('\\')
}

/// Returns `repr` of a float.
pub fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{f:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
