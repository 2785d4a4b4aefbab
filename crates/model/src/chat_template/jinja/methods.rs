//! Methods of Python's mappings, lists, tuples and numbers. The methods of strings are in `strings.rs`.

use super::calls::Call;
use super::limits::{Result, fail};
use super::run::Run;
use super::strings;
use super::value::{Dict, Items, Value, equal};
use std::rc::Rc;

const DICT: [&str; 6] = ["get", "items", "keys", "values", "copy", "fromkeys"];
const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const INT: [&str; 5] = ["bit_length", "bit_count", "conjugate", "as_integer_ratio", "is_integer"];
const FLOAT: [&str; 2] = ["is_integer", "conjugate"];

/// Returns the method with this name, if the value has it and templates may call it.
pub fn find(value: &Value, name: &str) -> Option<&'static str> {
    let names: &[&'static str] = match value {
        Value::Str(_) => &strings::NAMES,
        Value::Dict(_) => &DICT,
        Value::List(_) => &LIST,
        Value::Tuple(_) | Value::Range(..) => &TUPLE,
        Value::Int(_) | Value::Bool(_) => &INT,
        Value::Float(_) => &FLOAT,
        Value::Loop(_) => &["cycle", "changed"],
        Value::Cycler(_) => &["next", "reset"],
        Value::Function(super::value::Function::Dict) => &["fromkeys"],
        _ => &[],
    };
    names.iter().find(|n| **n == name).copied()
}

/// Returns true if the value has this attribute in Python but the sandbox forbids templates to use it.
pub fn is_unsafe(value: &Value, name: &str) -> bool {
    let internal = ["__class__", "__init__", "__dict__", "__doc__", "__len__", "__getitem__", "__iter__"]
        .contains(&name);
    let changing: &[&str] = match value {
        Value::Dict(_) => &["clear", "pop", "popitem", "setdefault", "update"],
        Value::List(_) => &["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"],
        _ => &[],
    };
    internal || changing.contains(&name)
}

/// Computes `receiver.name(…)`.
pub fn call(run: &Run<'_>, receiver: &Value, name: &'static str, call: Call) -> Result<Value> {
    run.budget.steps(1)?;
    match receiver {
        Value::Str(text) => strings::call(run, text, name, call),
        Value::Dict(dict) => of_dict(run, dict, name, call),
        Value::Function(_) => of_dict(run, &Rc::new(Dict::new()), name, call),
        Value::List(_) | Value::Tuple(_) | Value::Range(..) => of_list(run, receiver, name, call),
        Value::Loop(state) => match name {
            "cycle" => {
                if call.positional.is_empty() {
                    return fail("no items for cycling given");
                }
                Ok(call.positional[state.index.get() % call.positional.len()].clone())
            }
            _ => {
                let values = Value::tuple(run, call.positional)?;
                let mut changed = run.changed.borrow_mut();
                let Some(number) = state.changed.get() else {
                    state.changed.set(Some(changed.len()));
                    changed.push(values);
                    return Ok(Value::Bool(true));
                };
                if equal(run, &changed[number], &values)? {
                    return Ok(Value::Bool(false));
                }
                let old = std::mem::replace(&mut changed[number], values);
                drop(changed);
                drop(old);
                Ok(Value::Bool(true))
            }
        },
        Value::Cycler(cycler) => {
            call.nothing(name)?;
            let (items, place) = &**cycler;
            if name == "reset" {
                place.set(0);
                return Ok(Value::None);
            }
            let value = items.values()[place.get()].clone();
            place.set((place.get() + 1) % items.values().len());
            Ok(value)
        }
        _ => of_number(receiver, name, call),
    }
}

fn of_dict(run: &Run<'_>, dict: &Rc<Dict>, name: &'static str, call: Call) -> Result<Value> {
    let entries = dict.entries();
    let view = |kind: &'static str, values: Vec<Value>| {
        Ok(Value::View(kind, Rc::new(Items::new(&run.budget, values)?)))
    };
    match name {
        "get" => {
            let [key, default] = call.bind("get", ["key", "default"], 1)?;
            match dict.get(run, &key.unwrap_or(Value::None))? {
                Some(value) => Ok(value.clone()),
                None => Ok(default.unwrap_or(Value::None)),
            }
        }
        "fromkeys" => {
            let [keys, value] = call.bind("fromkeys", ["iterable", "value"], 1)?;
            let value = value.unwrap_or(Value::None);
            let mut made = Dict::new();
            for key in keys.unwrap_or(Value::None).iterate(run)?.values() {
                made.set(run, key.clone(), value.clone())?;
            }
            Ok(Value::Dict(Rc::new(made)))
        }
        _ => {
            call.nothing(name)?;
            run.budget.values(entries.len())?;
            match name {
                "keys" => view("dict_keys", entries.iter().map(|(key, _)| key.clone()).collect()),
                "values" => view("dict_values", entries.iter().map(|(_, value)| value.clone()).collect()),
                "items" => {
                    let pairs = entries.iter().map(|(k, v)| Value::tuple(run, vec![k.clone(), v.clone()]));
                    view("dict_items", pairs.collect::<Result<_>>()?)
                }
                _ => Ok(Value::Dict(dict.clone())),
            }
        }
    }
}

fn of_list(run: &Run<'_>, list: &Value, name: &'static str, call: Call) -> Result<Value> {
    if name == "copy" {
        call.nothing(name)?;
        return Ok(list.clone());
    }
    let [wanted, start, stop] = call.bind(name, ["value", "start", "stop"], 1)?;
    let wanted = wanted.unwrap_or(Value::None);
    let items = list.iterate(run)?;
    let length = items.values().len();
    let bound = |value: Option<Value>, default: usize| -> Result<usize> {
        let Some(value) = value else { return Ok(default) };
        let Some(i) = value.index() else {
            return fail("slice indices must be integers or have an __index__ method");
        };
        let i = if i < 0 { (i + length as i128).max(0) } else { i };
        Ok(i.min(length as i128) as usize)
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?);
    let mut count = 0;
    for (i, value) in items.values().iter().enumerate().take(stop).skip(start) {
        if equal(run, value, &wanted)? {
            if name == "index" {
                return Ok(Value::Int(i as i128));
            }
            count += 1;
        }
    }
    if name == "count" { Ok(Value::Int(count)) } else { fail("the value is not in the list") }
}

fn of_number(number: &Value, name: &'static str, call: Call) -> Result<Value> {
    call.nothing(name)?;
    match (number, name) {
        (Value::Float(f), "is_integer") => Ok(Value::Bool(f.fract() == 0.0)),
        (_, "is_integer") => Ok(Value::Bool(true)),
        (_, "bit_length") => {
            let magnitude = number.index().unwrap_or(0).unsigned_abs();
            Ok(Value::Int(i128::from(128 - magnitude.leading_zeros())))
        }
        (_, "bit_count") => {
            Ok(Value::Int(i128::from(number.index().unwrap_or(0).unsigned_abs().count_ones())))
        }
        (_, "conjugate") => super::operators::plus(number),
        _ => fail(format!("'{name}' is not supported")),
    }
}
