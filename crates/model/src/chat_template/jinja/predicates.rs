//! Tests: the names that can follow `is`. Source: `jinja2/tests.py`.

use super::calls::Call;
use super::limits::{Result, fail};
use super::operators;
use super::run::Run;
use super::syntax::Operator;
use super::value::{Value, contains, equal, order};
use std::cmp::Ordering;
use std::rc::Rc;

const NAMES: [&str; 33] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "eq",
    "equalto",
    "ne",
    "gt",
    "greaterthan",
    "ge",
    "lt",
    "lessthan",
    "le",
];

/// Returns true if there is a test with this name.
pub fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Computes `value is name(…)`.
pub fn apply(run: &Run<'_>, name: &str, value: &Value, call: Call) -> Result<bool> {
    match name {
        "divisibleby" | "sameas" | "in" | "eq" | "equalto" | "ne" | "gt" | "greaterthan" | "ge" | "lt"
        | "lessthan" | "le" => {
            let [other] = call.bind(name, ["other"], 1)?;
            let other = other.unwrap_or(Value::None);
            let ordered = |operator: &str, wanted: &[Ordering]| {
                Ok(order(run, value, &other, operator)?.is_some_and(|order| wanted.contains(&order)))
            };
            match name {
                "divisibleby" => {
                    let rest = operators::apply(run, Operator::Remainder, value, &other)?;
                    equal(run, &rest, &Value::Int(0))
                }
                "sameas" => Ok(same(value, &other)),
                "in" => contains(run, &other, value),
                "eq" | "equalto" => equal(run, value, &other),
                "ne" => Ok(!equal(run, value, &other)?),
                "gt" | "greaterthan" => ordered(">", &[Ordering::Greater]),
                "ge" => ordered(">=", &[Ordering::Greater, Ordering::Equal]),
                "lt" | "lessthan" => ordered("<", &[Ordering::Less]),
                _ => ordered("<=", &[Ordering::Less, Ordering::Equal]),
            }
        }
        _ => {
            call.nothing(name)?;
            alone(run, name, value)
        }
    }
}

fn alone(run: &Run<'_>, name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "odd" | "even" => {
            let rest = operators::apply(run, Operator::Remainder, value, &Value::Int(2))?;
            equal(run, &rest, &Value::Int(i128::from(name == "odd")))?
        }
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "filter" => matches!(value, Value::Str(name) if super::filters::exists(name.as_str())),
        "test" => matches!(value, Value::Str(name) if exists(name.as_str())),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
        "lower" => {
            let text = value.to_text(run)?;
            run.budget.scan(text.as_str().len())?;
            is_lower(text.as_str())
        }
        "upper" => {
            let text = value.to_text(run)?;
            run.budget.scan(text.as_str().len())?;
            is_upper(text.as_str())
        }
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        // `Undefined` counts as a sequence, because Jinja2's class has `__len__` and `__getitem__` (which raises an
        // error).
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(..)
        ),
        "iterable" => value.is_iterable(),
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "escaped" => false,
        _ => return fail(format!("No test named '{}'.", super::run::short(name))),
    })
}

/// Returns Python's `str.islower`.
pub fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// Returns Python's `str.isupper`.
pub fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b && (-5..=256).contains(a),
        (Value::Str(a), Value::Str(b)) => Rc::ptr_eq(&a.shared(), &b.shared()),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => a == b,
        _ => false,
    }
}
