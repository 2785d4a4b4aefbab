//! Arithmetic, slices and repetition as in Python.

use super::limits::{Error, Result, fail};
use super::percent;
use super::run::Run;
use super::syntax::Operator;
use super::text::{Builder, Text};
use super::value::{Items, Value};
use std::rc::Rc;

/// Maximum length of a `range`, as in the sandbox of Jinja2.
const LONGEST_RANGE: i128 = 100_000;

fn too_large<T>() -> Result<T> {
    Err(Error::limit("an integer of more than 127 bits"))
}

/// Computes `-value`.
pub fn minus(value: &Value) -> Result<Value> {
    match value.defined()? {
        Value::Float(f) => Ok(Value::Float(-f)),
        _ => match value.index() {
            Some(i) => i.checked_neg().map_or_else(too_large, |i| Ok(Value::Int(i))),
            None => fail(format!("bad operand type for unary -: '{}'", value.type_name())),
        },
    }
}

/// Computes `+value`.
pub fn plus(value: &Value) -> Result<Value> {
    match value.defined()? {
        Value::Float(f) => Ok(Value::Float(*f)),
        _ => match value.index() {
            Some(i) => Ok(Value::Int(i)),
            None => fail(format!("bad operand type for unary +: '{}'", value.type_name())),
        },
    }
}

/// Returns the value of a number as a float.
pub fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(f) => Some(*f),
        _ => value.index().map(|i| i as f64),
    }
}

/// Computes `a operator b`.
pub fn apply(run: &Run<'_>, operator: Operator, a: &Value, b: &Value) -> Result<Value> {
    run.budget.steps(1)?;
    match (operator, a, b) {
        // `%` of a string comes before the check, because its arguments may be undefined.
        (Operator::Remainder, Value::Str(format), _) => return percent::format(run, format, b),
        _ => {
            a.defined()?;
            b.defined()?;
        }
    }
    match (operator, a, b) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => {
            let mut out = Builder::default();
            let markup = a.is_markup() || b.is_markup();
            for text in [a, b] {
                let text = if markup { text.escaped(&run.budget)? } else { text.clone() };
                out.push_text(&run.budget, &text)?;
            }
            return Ok(Value::Str(out.finish().marked(markup)));
        }
        (Operator::Add, Value::List(a), Value::List(b)) => {
            return Value::list(run, joined(run, a, b)?);
        }
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
            return Value::tuple(run, joined(run, a, b)?);
        }
        (Operator::Multiply, Value::Str(text), count) | (Operator::Multiply, count, Value::Str(text)) => {
            if let Some(count) = count.index() {
                return repeat(run, text, count).map(Value::Str);
            }
        }
        (Operator::Multiply, list @ (Value::List(items) | Value::Tuple(items)), count)
        | (Operator::Multiply, count, list @ (Value::List(items) | Value::Tuple(items))) => {
            if let Some(count) = count.index() {
                let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
                let values = items.values();
                let total = values.len().saturating_mul(count);
                run.budget.values(total)?;
                let values: Vec<Value> = values.iter().cycle().take(total).cloned().collect();
                return if matches!(list, Value::List(_)) {
                    Value::list(run, values)
                } else {
                    Value::tuple(run, values)
                };
            }
        }
        _ => {}
    }
    let result = match (a.index(), b.index()) {
        (Some(a), Some(b)) => integers(operator, a, b)?,
        _ => match (float(a), float(b)) {
            (Some(a), Some(b)) => Some(Value::Float(floats(operator, a, b)?)),
            _ => None,
        },
    };
    match result {
        Some(value) => Ok(value),
        None => {
            let sign = match operator {
                Operator::Add => "+",
                Operator::Subtract => "-",
                Operator::Multiply => "*",
                Operator::Divide => "/",
                Operator::FloorDivide => "//",
                Operator::Remainder => "%",
                Operator::Power => "**",
            };
            fail(format!(
                "unsupported operand type(s) for {sign}: '{}' and '{}'",
                a.type_name(),
                b.type_name()
            ))
        }
    }
}

fn joined(run: &Run<'_>, a: &Items, b: &Items) -> Result<Vec<Value>> {
    run.budget.values(a.values().len() + b.values().len())?;
    Ok([a.values(), b.values()].concat())
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Option<Value>> {
    let zero = || fail("division by zero");
    let value = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if b == 0 => return zero(),
        Operator::Divide => return Ok(Some(Value::Float(a as f64 / b as f64))),
        Operator::FloorDivide | Operator::Remainder if b == 0 => return zero(),
        Operator::FloorDivide => a.checked_div_euclid(b).map(|_| {
            let quotient = a / b;
            if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
        }),
        Operator::Remainder => {
            a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
        }
        Operator::Power if b < 0 && a == 0 => return zero(),
        Operator::Power if b < 0 => return Ok(Some(Value::Float((a as f64).powf(b as f64)))),
        Operator::Power => match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(exponent)) => a.checked_pow(exponent),
            _ => None,
        },
    };
    value.map_or_else(too_large, |value| Ok(Some(Value::Int(value))))
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<f64> {
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide | Operator::FloorDivide | Operator::Remainder if b == 0.0 => {
            return fail("float division by zero");
        }
        Operator::Divide => a / b,
        Operator::FloorDivide => ((a - remainder(a, b)) / b).round(),
        Operator::Remainder => remainder(a, b),
        Operator::Power if a == 0.0 && b < 0.0 => {
            return fail("0.0 cannot be raised to a negative power");
        }
        Operator::Power => a.powf(b),
    })
}

fn remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest.copysign(if rest == 0.0 { b } else { rest })
    }
}

/// Computes `text * count`.
pub fn repeat(run: &Run<'_>, text: &Text, count: i128) -> Result<Text> {
    let mut out = Builder::default();
    if !text.as_str().is_empty() {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        // Charge all copies before the first copy is made.
        run.budget.allocate(text.as_str().len().saturating_mul(count))?;
        for _ in 0..count {
            out.push_text(&run.budget, text)?;
        }
    }
    Ok(out.finish().marked(text.is_markup()))
}

/// Computes `range(…)`.
pub fn range(a: Option<&Value>, b: Option<&Value>, c: Option<&Value>) -> Result<Value> {
    let number = |value: Option<&Value>| match value {
        None => Ok(None),
        Some(value) => match value.defined()?.index() {
            Some(i) if i.unsigned_abs() < 1 << 100 => Ok(Some(i)),
            Some(_) => too_large(),
            None => fail(format!("'{}' object cannot be interpreted as an integer", value.type_name())),
        },
    };
    let (first, second, step) = (number(a)?.unwrap_or(0), number(b)?, number(c)?.unwrap_or(1));
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let length = match step {
        0 => return fail("range() arg 3 must not be zero"),
        _ if (stop - start).signum() != step.signum() => 0,
        _ => (stop - start + step - step.signum()) / step,
    };
    if length > LONGEST_RANGE {
        return Err(Error::limit(format!("Range too big: at most {LONGEST_RANGE} items")));
    }
    Ok(Value::Range(start, step, length as usize))
}

/// Returns the characters with the indices `start..end`. Indices after the end of the text are allowed.
pub fn characters(run: &Run<'_>, text: &Text, start: usize, end: usize) -> Result<Text> {
    let whole = text.as_str();
    run.budget.scan(whole.len())?;
    let place = |n: usize| {
        if whole.is_ascii() {
            n.min(whole.len())
        } else {
            whole.char_indices().nth(n).map_or(whole.len(), |(i, _)| i)
        }
    };
    let start = place(start);
    text.slice(&run.budget, start..place(end).max(start))
}

/// Returns start, step and number of the indices, like Python's `slice.indices`.
fn indices([start, stop, step]: [Option<i128>; 3], length: usize) -> Result<(i128, i128, usize)> {
    let length = length as i128;
    let step = step.unwrap_or(1).clamp(-(1 << 64), 1 << 64);
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clip = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(i) if i < 0 => i.saturating_add(length).max(low),
        Some(i) => i.min(high),
    };
    let (start, stop) =
        if step > 0 { (clip(start, low), clip(stop, high)) } else { (clip(start, high), clip(stop, low)) };
    let distance = if step > 0 { stop - start } else { start - stop };
    let count = if distance <= 0 { 0 } else { (distance - 1) / step.abs() + 1 };
    Ok((start, step, count as usize))
}

/// Computes `value[start:stop:step]`.
pub fn slice(run: &Run<'_>, value: &Value, bounds: [Option<i128>; 3]) -> Result<Value> {
    match value.defined()? {
        Value::Str(text) => {
            let (start, step, count) = indices(bounds, value.length(run)?)?;
            if step == 1 {
                return Ok(Value::Str(characters(run, text, start as usize, start as usize + count)?));
            }
            run.budget.allocate(16 * text.as_str().len())?;
            let ends: Vec<(usize, char)> = text.as_str().char_indices().collect();
            let mut out = Builder::default();
            for i in 0..count as i128 {
                let (at, c) = ends[(start + i * step) as usize];
                out.push_range(&run.budget, text, at..at + c.len_utf8())?;
            }
            Ok(Value::Str(out.finish().marked(text.is_markup())))
        }
        Value::List(items) | Value::Tuple(items) => {
            let (start, step, count) = indices(bounds, items.values().len())?;
            run.budget.values(count)?;
            let values =
                (0..count as i128).map(|i| items.values()[(start + i * step) as usize].clone()).collect();
            let items = Rc::new(Items::new(&run.budget, values)?);
            Ok(if matches!(value, Value::List(_)) { Value::List(items) } else { Value::Tuple(items) })
        }
        Value::Range(first, stride, length) => {
            let (start, step, count) = indices(bounds, *length)?;
            // With fewer than two values, the step is not used, but its computation could overflow. With two or more
            // values, the step is within the range.
            let step = if count < 2 { 1 } else { step * stride };
            Ok(Value::Range(first + start * stride, step, count))
        }
        Value::Dict(_) => fail("unhashable type: 'slice'"),
        _ => fail(format!("'{}' object is not subscriptable", value.type_name())),
    }
}
