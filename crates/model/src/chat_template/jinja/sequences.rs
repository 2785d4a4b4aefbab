//! Filters of sequences and mappings. Source: `jinja2/filters.py`.
//!
//! If Jinja2 returns a generator, the filter computes all values at once and returns them as a generator.

use super::calls::Call;
use super::filters;
use super::json::{less, sorted};
use super::limits::{Result, fail};
use super::operators;
use super::predicates;
use super::print;
use super::run::Run;
use super::strings;
use super::syntax::Operator;
use super::text::{Builder, Text};
use super::value::{Dict, Items, Value, equal};
use std::rc::Rc;

/// Computes `value | name(…)`. Returns `None` if this file has no filter with this name.
pub fn apply(run: &Run<'_>, name: &str, value: &Value, call: Call) -> Result<Option<Value>> {
    let budget = &run.budget;
    let result = match name {
        "length" | "count" => {
            call.nothing(name)?;
            Value::Int(value.length(run)? as i128)
        }
        "first" => {
            call.nothing(name)?;
            let first = match value {
                Value::Generator(generator) => generator.next(),
                Value::Str(text) => match text.as_str().chars().next() {
                    Some(c) => Some(Value::Str(text.slice(budget, 0..c.len_utf8())?)),
                    None => None,
                },
                _ => value.iterate(run)?.values().first().cloned(),
            };
            first.map_or_else(|| run.undefined(&["No first item, sequence was empty."]), Ok)?
        }
        "last" => {
            call.nothing(name)?;
            if matches!(value, Value::Generator(_)) {
                return fail("'generator' object is not reversible");
            }
            let last = match value {
                Value::Str(text) => match text.as_str().chars().next_back() {
                    Some(c) => {
                        let end = text.as_str().len();
                        Some(Value::Str(text.slice(budget, end - c.len_utf8()..end)?))
                    }
                    None => None,
                },
                _ => value.iterate(run)?.values().last().cloned(),
            };
            last.map_or_else(|| run.undefined(&["No last item, sequence was empty."]), Ok)?
        }
        "list" => {
            call.nothing(name)?;
            let items = value.iterate(run)?;
            budget.values(items.values().len())?;
            Value::list(run, items.values().to_vec())?
        }
        "items" => {
            call.nothing(name)?;
            match value {
                Value::Undefined(_) => Value::generator(run, Vec::new())?,
                Value::Dict(dict) => Value::generator(run, pairs(run, dict)?)?,
                _ => return fail("Can only get item pairs from a mapping."),
            }
        }
        "join" => {
            let [separator, attribute] = call.bind(name, ["d", "attribute"], 0)?;
            let separator = separator.map_or(Ok(Text::own("")), |s| s.to_text(run))?;
            let path = Path::new(run, attribute.as_ref())?;
            let mut out = Builder::default();
            for (i, item) in value.iterate(run)?.values().iter().enumerate() {
                if i > 0 {
                    out.push_text(budget, &separator)?;
                }
                print::display(run, &path.of(run, item)?, &mut out)?;
            }
            Value::Str(out.finish())
        }
        "reverse" => {
            call.nothing(name)?;
            if let Value::Str(_) = value {
                operators::slice(run, value, [None, None, Some(-1)])?
            } else {
                let items = value.iterate(run)?;
                budget.values(items.values().len())?;
                Value::generator(run, items.values().iter().rev().cloned().collect())?
            }
        }
        "map" => {
            let values = map(run, value, call)?;
            Value::generator(run, values)?
        }
        "select" | "reject" | "selectattr" | "rejectattr" => {
            let values = choose(run, name, value, call)?;
            Value::generator(run, values)?
        }
        "sort" => {
            let [reverse, case, attribute] =
                call.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let paths = Path::several(run, attribute.as_ref())?;
            let case = case.is_some_and(|c| c.is_true());
            let mut keyed = Vec::new();
            for item in value.iterate(run)?.values() {
                budget.allocate(64)?;
                let mut keys = Vec::new();
                for path in &paths {
                    keys.push(folded(run, path.of(run, item)?, case)?);
                }
                keyed.push((Value::list(run, keys)?, item.clone()));
            }
            Value::list(run, in_order(run, keyed, reverse.is_some_and(|r| r.is_true()))?)?
        }
        "dictsort" => {
            let [case, by, reverse] = call.bind(name, ["case_sensitive", "by", "reverse"], 0)?;
            let Value::Dict(dict) = value.defined()? else { return fail("dictsort takes a mapping") };
            let by_value = match &by {
                None => false,
                Some(Value::Str(by)) if by.as_str() == "key" => false,
                Some(Value::Str(by)) if by.as_str() == "value" => true,
                Some(_) => return fail("You can only sort by either \"key\" or \"value\""),
            };
            let case = case.is_some_and(|c| c.is_true());
            let mut keyed = Vec::new();
            for ((key, value), pair) in dict.entries().iter().zip(pairs(run, dict)?) {
                let by = if by_value { value } else { key };
                keyed.push((folded(run, by.clone(), case)?, pair));
            }
            Value::list(run, in_order(run, keyed, reverse.is_some_and(|r| r.is_true()))?)?
        }
        "unique" => {
            let [case, attribute] = call.bind(name, ["case_sensitive", "attribute"], 0)?;
            let path = Path::new(run, attribute.as_ref())?;
            let case = case.is_some_and(|c| c.is_true());
            let (mut seen, mut values) = (Dict::new(), Vec::new());
            for item in value.iterate(run)?.values() {
                let key = folded(run, path.of(run, item)?, case)?;
                if seen.get(run, &key)?.is_none() {
                    seen.set(run, key, Value::None)?;
                    values.push(item.clone());
                }
            }
            Value::generator(run, values)?
        }
        "groupby" => group(run, value, call)?,
        "min" | "max" => {
            let [case, attribute] = call.bind(name, ["case_sensitive", "attribute"], 0)?;
            let path = Path::new(run, attribute.as_ref())?;
            let case = case.is_some_and(|c| c.is_true());
            let mut best: Option<(Value, Value)> = None;
            for item in value.iterate(run)?.values() {
                let key = folded(run, path.of(run, item)?, case)?;
                let better = match &best {
                    None => true,
                    Some((best, _)) if name == "min" => less(run, &key, best)?,
                    Some((best, _)) => less(run, best, &key)?,
                };
                if better {
                    best = Some((key, item.clone()));
                }
            }
            match best {
                Some((_, item)) => item,
                None => run.undefined(&["No aggregated item, sequence was empty."])?,
            }
        }
        "sum" => {
            let [attribute, start] = call.bind(name, ["attribute", "start"], 0)?;
            let path = Path::new(run, attribute.as_ref())?;
            let mut sum = start.unwrap_or(Value::Int(0));
            if matches!(sum, Value::Str(_)) {
                return fail("sum() can't sum strings [use ''.join(seq) instead]");
            }
            for item in value.iterate(run)?.values() {
                sum = operators::apply(run, Operator::Add, &sum, &path.of(run, item)?)?;
            }
            sum
        }
        "batch" => {
            let [size, fill] = call.bind(name, ["linecount", "fill_with"], 1)?;
            let Some(size) = size.and_then(|s| s.index()) else {
                return fail("linecount must be an integer");
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let items = value.iterate(run)?;
            let mut rows = Vec::new();
            for row in items.values().chunks(size.max(1)) {
                budget.values(row.len())?;
                let mut row = row.to_vec();
                if let Some(fill) = fill.as_ref().filter(|f| !matches!(f, Value::None)) {
                    let filled = size.max(row.len());
                    budget.values(filled - row.len())?;
                    row.resize(filled, fill.clone());
                }
                rows.push(Value::list(run, row)?);
            }
            Value::generator(run, rows)?
        }
        "slice" => {
            let [slices, fill] = call.bind(name, ["slices", "fill_with"], 1)?;
            let slices = slices.and_then(|s| s.index()).and_then(|s| usize::try_from(s).ok()).unwrap_or(0);
            if slices == 0 {
                return fail("the number of slices must be a positive integer");
            }
            budget.allocate(slices.saturating_mul(128))?;
            let items = value.iterate(run)?;
            let (each, extra) = (items.values().len() / slices, items.values().len() % slices);
            let (mut rows, mut from) = (Vec::new(), 0);
            for number in 0..slices {
                let length = each + usize::from(number < extra);
                budget.values(length + 1)?;
                let mut row = items.values()[from..from + length].to_vec();
                from += length;
                if number >= extra {
                    row.extend(fill.clone().filter(|f| !matches!(f, Value::None)));
                }
                rows.push(Value::list(run, row)?);
            }
            Value::generator(run, rows)?
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn pairs(run: &Run<'_>, dict: &Dict) -> Result<Vec<Value>> {
    run.budget.values(dict.entries().len())?;
    dict.entries().iter().map(|(key, value)| Value::tuple(run, vec![key.clone(), value.clone()])).collect()
}

/// Converts a text to lower case, unless `case` is true (the comparison is case-sensitive).
fn folded(run: &Run<'_>, value: Value, case: bool) -> Result<Value> {
    match value {
        Value::Str(text) if !case => strings::change_case(run, &text, "lower").map(Value::Str),
        other => Ok(other),
    }
}

/// Returns the items sorted by their keys. Items with equal keys keep their order, also if `reverse` is true.
fn in_order(run: &Run<'_>, mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    run.budget.values(2 * keyed.len())?;
    if reverse {
        keyed.reverse();
    }
    let mut keyed = sorted(keyed, &|a, b| less(run, &a.0, &b.0))?;
    if reverse {
        keyed.reverse();
    }
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// A list of attribute names and indices that are applied one after the other, for example `a.b.0`.
struct Path(Vec<Value>);

impl Path {
    fn new(run: &Run<'_>, attribute: Option<&Value>) -> Result<Self> {
        Ok(Self(match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(text)) => {
                run.budget.allocate(64 * text.as_str().len())?;
                let part = |part: &str| match part.parse::<i128>() {
                    Ok(number) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(number),
                    _ => Value::own(part),
                };
                text.as_str().split('.').map(part).collect()
            }
            Some(other) => vec![other.clone()],
        }))
    }

    fn several(run: &Run<'_>, attribute: Option<&Value>) -> Result<Vec<Self>> {
        match attribute {
            Some(Value::Str(text)) => {
                text.as_str().split(',').map(|part| Self::new(run, Some(&Value::own(part)))).collect()
            }
            other => Ok(vec![Self::new(run, other)?]),
        }
    }

    fn of(&self, run: &Run<'_>, item: &Value) -> Result<Value> {
        let mut value = item.clone();
        for part in &self.0 {
            run.budget.steps(1)?;
            value = run.item(&value, part)?;
        }
        Ok(value)
    }

    /// Does the same as [`Path::of`], but replaces each undefined value on the path by `default`.
    fn or(&self, run: &Run<'_>, item: &Value, default: Option<&Value>) -> Result<Value> {
        let mut value = item.clone();
        for part in &self.0 {
            run.budget.steps(1)?;
            value = run.item(&value, part)?;
            if let (Value::Undefined(_), Some(default)) =
                (&value, default.filter(|d| !matches!(d, Value::None)))
            {
                value = default.clone();
            }
        }
        Ok(value)
    }
}

fn map(run: &Run<'_>, value: &Value, mut call: Call) -> Result<Vec<Value>> {
    if !value.is_true() {
        return Ok(Vec::new());
    }
    let items = value.iterate(run)?;
    let mut values = Vec::new();
    if call.positional.is_empty() && call.named.iter().any(|(name, _)| **name == *"attribute") {
        let [attribute, default] = call.bind("map", ["attribute", "default"], 0)?;
        let path = Path::new(run, attribute.as_ref())?;
        for item in items.values() {
            values.push(path.or(run, item, default.as_ref())?);
        }
        return Ok(values);
    }
    if call.positional.is_empty() {
        return fail("map requires a filter argument");
    }
    let Value::Str(name) = call.positional.remove(0) else { return fail("map requires a filter's name") };
    for item in items.values() {
        let arguments = Call { positional: call.positional.clone(), named: call.named.clone() };
        run.budget.steps(1 + call.positional.len() + call.named.len())?;
        let filtered = run.budget.deeper(|| filters::apply(run, name.as_str(), item.clone(), arguments))?;
        values.push(filtered);
    }
    Ok(values)
}

fn choose(run: &Run<'_>, name: &str, value: &Value, mut call: Call) -> Result<Vec<Value>> {
    if !value.is_true() {
        return Ok(Vec::new());
    }
    let mut path = Path(Vec::new());
    if name.ends_with("attr") {
        if call.positional.is_empty() {
            return fail("Missing parameter for attribute name");
        }
        path = Path::new(run, Some(&call.positional.remove(0)))?;
    }
    let test = if call.positional.is_empty() {
        None
    } else {
        let Value::Str(test) = call.positional.remove(0) else {
            return fail("the name of a test must be a string");
        };
        Some(test)
    };
    let wanted = name.starts_with("select");
    let mut values = Vec::new();
    for item in value.iterate(run)?.values() {
        let tested = path.of(run, item)?;
        run.budget.steps(1 + call.positional.len() + call.named.len())?;
        let passes = match &test {
            None => tested.is_true(),
            Some(test) => {
                let arguments = Call { positional: call.positional.clone(), named: call.named.clone() };
                let test = match test.as_str() {
                    "==" => "eq",
                    "!=" => "ne",
                    ">" => "gt",
                    ">=" => "ge",
                    "<" => "lt",
                    "<=" => "le",
                    other => other,
                };
                if !predicates::exists(test) {
                    return fail(format!("No test named '{}'.", super::run::short(test)));
                }
                predicates::apply(run, test, &tested, arguments)?
            }
        };
        if passes == wanted {
            values.push(item.clone());
        }
    }
    Ok(values)
}

fn group(run: &Run<'_>, value: &Value, call: Call) -> Result<Value> {
    let [attribute, default, case] = call.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let path = Path::new(run, attribute.as_ref())?;
    let case = case.is_some_and(|c| c.is_true());
    let mut keyed = Vec::new();
    for item in value.iterate(run)?.values() {
        run.budget.allocate(96)?;
        let key = path.or(run, item, default.as_ref())?;
        keyed.push((folded(run, key.clone(), case)?, key, item.clone()));
    }
    let keyed = sorted(keyed, &|a, b| less(run, &a.0, &b.0))?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for (folded, key, item) in keyed {
        match groups.last_mut() {
            Some((last, _, items)) if equal(run, last, &folded)? => items.push(item),
            _ => groups.push((folded, key, vec![item])),
        }
    }
    let mut rows = Vec::new();
    for (_, key, items) in groups {
        let items = Value::list(run, items)?;
        rows.push(Value::Tuple(Rc::new(Items::group(&run.budget, key, items)?)));
    }
    Value::list(run, rows)
}
