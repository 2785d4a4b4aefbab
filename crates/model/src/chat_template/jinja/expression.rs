//! Evaluates expressions: variables, operators, chains, attributes, items, slices.

use super::calls::Call;
use super::limits::{Error, Result, fail};
use super::run::{Run, Scope, short};
use super::syntax::{Arguments, Comparison, Expression, Link, Node, Step};
use super::text::Builder;
use super::value::{Dict, Method, Value, contains, equal, order};
use super::{filters, methods, operators, predicates};
use std::cmp::Ordering;
use std::rc::Rc;

impl Run<'_> {
    /// Computes the value of an expression.
    pub fn evaluate(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.steps(1)?;
        match &expression.node {
            Node::None => Ok(Value::None),
            Node::Bool(b) => Ok(Value::Bool(*b)),
            Node::Integer(i) => Ok(Value::Int(*i)),
            Node::Float(f) => Ok(Value::Float(*f)),
            Node::String(text) => {
                self.budget.allocate(text.len())?;
                Ok(Value::own(text))
            }
            Node::Name(name) => self.get(scope, *name),
            _ => self.budget.deeper(|| self.compound(expression, scope)).map_err(|e| e.or_at(expression.at)),
        }
    }

    fn each(&self, items: &[Expression], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.evaluate(item, scope)).collect()
    }

    fn compound(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        match &expression.node {
            Node::List(items) => Value::list(self, self.each(items, scope)?),
            Node::Tuple(items) => Value::tuple(self, self.each(items, scope)?),
            Node::Dict(items) => {
                let mut dict = Dict::new();
                for (key, value) in items {
                    let key = self.evaluate(key, scope)?;
                    dict.set(self, key, self.evaluate(value, scope)?)?;
                }
                Ok(Value::Dict(Rc::new(dict)))
            }
            Node::Chain(base, steps) => {
                let base = self.evaluate(base, scope)?;
                self.links(base, steps, scope, None)
            }
            Node::Not(inner) => Ok(Value::Bool(!self.evaluate(inner, scope)?.is_true())),
            Node::Minus(inner) => operators::minus(&self.evaluate(inner, scope)?),
            Node::Plus(inner) => operators::plus(&self.evaluate(inner, scope)?),
            Node::And(items) => self.until(items, scope, false),
            Node::Or(items) => self.until(items, scope, true),
            Node::Compare(first, rest) => {
                let mut left = self.evaluate(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.evaluate(right, scope)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Node::Arithmetic(first, rest) => {
                let mut left = self.evaluate(first, scope)?;
                for (operator, right) in rest {
                    let at = right.at;
                    let right = self.evaluate(right, scope)?;
                    left = operators::apply(self, *operator, &left, &right).map_err(|e| e.or_at(at))?;
                }
                Ok(left)
            }
            Node::Concat(items) => {
                let mut out = Builder::default();
                for item in items {
                    super::print::display(self, &self.evaluate(item, scope)?, &mut out)?;
                }
                Ok(Value::Str(out.finish()))
            }
            Node::If(condition, then, otherwise) => {
                if self.evaluate(condition, scope)?.is_true() {
                    return self.evaluate(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise, scope),
                    None => self.undefined(&[
                        "the inline if-expression evaluated to false and no else section was defined.",
                    ]),
                }
            }
            _ => self.evaluate(expression, scope),
        }
    }

    /// Evaluates the items in order. Returns the first value whose truth value is `stop`; otherwise the last value.
    fn until(&self, items: &[Expression], scope: &Rc<Scope>, stop: bool) -> Result<Value> {
        let mut last = Value::None;
        for item in items {
            last = self.evaluate(item, scope)?;
            if last.is_true() == stop {
                break;
            }
        }
        Ok(last)
    }

    fn compare(&self, comparison: Comparison, a: &Value, b: &Value) -> Result<bool> {
        let ordered = |operator: &str, wanted: &[Ordering]| {
            Ok(order(self, a, b, operator)?.is_some_and(|order| wanted.contains(&order)))
        };
        match comparison {
            Comparison::Equal => equal(self, a, b),
            Comparison::Unequal => Ok(!equal(self, a, b)?),
            Comparison::Less => ordered("<", &[Ordering::Less]),
            Comparison::LessOrEqual => ordered("<=", &[Ordering::Less, Ordering::Equal]),
            Comparison::Greater => ordered(">", &[Ordering::Greater]),
            Comparison::GreaterOrEqual => ordered(">=", &[Ordering::Greater, Ordering::Equal]),
            Comparison::In => contains(self, b, a),
            Comparison::NotIn => Ok(!contains(self, b, a)?),
        }
    }

    /// Applies the steps of a chain to `base`. `caller` is passed to the last step, if this step is a call.
    pub fn links(
        &self,
        base: Value,
        steps: &[Step],
        scope: &Rc<Scope>,
        caller: Option<&Value>,
    ) -> Result<Value> {
        let mut value = base;
        for (i, step) in steps.iter().enumerate() {
            self.budget.steps(1)?;
            let caller = caller.filter(|_| i + 1 == steps.len());
            value = self.link(value, step, scope, caller).map_err(|e| e.or_at(step.at))?;
        }
        Ok(value)
    }

    fn link(&self, value: Value, step: &Step, scope: &Rc<Scope>, caller: Option<&Value>) -> Result<Value> {
        match &step.link {
            Link::Attribute(name) => self.member(&value, name),
            Link::Item(index) => {
                let index = self.evaluate(index, scope)?;
                self.item(&value, &index)
            }
            Link::Slice(parts) => {
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    let Some(part) = part else { continue };
                    *bound = match self.evaluate(part, scope)?.defined()? {
                        Value::None => None,
                        value => match value.index() {
                            Some(index) => Some(index),
                            None => return fail("slice indices must be integers or None"),
                        },
                    };
                }
                operators::slice(self, &value, bounds)
            }
            Link::Call(arguments) => {
                let mut call = self.arguments(arguments, scope)?;
                if let Some(caller) = caller {
                    call.named.push(("caller".into(), caller.clone()));
                }
                self.call(&value, call)
            }
            Link::Filter(name, arguments) => {
                let call = self.arguments(arguments, scope)?;
                filters::apply(self, name, value, call)
            }
            Link::Test(name, arguments, negated) => {
                let call = self.arguments(arguments, scope)?;
                Ok(Value::Bool(predicates::apply(self, name, &value, call)? != *negated))
            }
        }
    }

    /// Evaluates the call of a `{% call %}` block. `caller` is the body of the block.
    pub fn evaluate_with_caller(
        &self,
        expression: &Expression,
        caller: Value,
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let Node::Chain(base, steps) = &expression.node else { return fail("expected call") };
        let base = self.evaluate(base, scope)?;
        self.budget.deeper(|| self.links(base, steps, scope, Some(&caller)))
    }

    fn arguments(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Call> {
        let mut call = Call { positional: self.each(&arguments.positional, scope)?, named: Vec::new() };
        for (name, value) in &arguments.named {
            call.named.push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(list) = &arguments.list {
            let list = self.evaluate(list, scope)?.iterate(self)?;
            self.budget.values(list.values().len())?;
            call.positional.extend(list.values().iter().cloned());
        }
        if let Some(mapping) = &arguments.mapping {
            let Value::Dict(dict) = self.evaluate(mapping, scope)? else {
                return fail("argument after ** must be a mapping");
            };
            if dict.entries().len() > 1000 {
                return Err(Error::limit("more than 1000 keyword arguments"));
            }
            for (key, value) in dict.entries() {
                let Value::Str(key) = key else { return fail("keywords must be strings") };
                if call.named.iter().any(|(name, _)| **name == *key.as_str()) {
                    return fail(format!(
                        "got multiple values for keyword argument '{}'",
                        short(key.as_str())
                    ));
                }
                self.budget.allocate(key.as_str().len())?;
                call.named.push((key.as_str().into(), value.clone()));
            }
        }
        self.budget.steps(call.named.len() * call.named.len() / 16)?;
        Ok(call)
    }

    /// Computes `value.name`.
    pub fn member(&self, value: &Value, name: &str) -> Result<Value> {
        value.defined()?;
        if let Value::Namespace(number) = value {
            return match self.attribute(*number, name)? {
                Some(value) => Ok(value),
                None => self.no_attribute(value, name),
            };
        }
        match self.attribute_of(value, name)? {
            Some(attribute) => Ok(attribute),
            None => match value {
                Value::Dict(dict) => match dict.get_str(self, name)? {
                    Some(value) => Ok(value.clone()),
                    None => self.no_attribute(value, name),
                },
                _ => self.no_attribute(value, name),
            },
        }
    }

    fn no_attribute(&self, value: &Value, name: &str) -> Result<Value> {
        let kind = match value {
            Value::None => "None",
            _ => value.type_name(),
        };
        self.undefined(&[
            "'",
            kind,
            if kind == "None" { "" } else { " object" },
            "' has no attribute '",
            &short(name),
            "'",
        ])
    }

    /// Returns a method or another attribute of a Python object.
    fn attribute_of(&self, value: &Value, name: &str) -> Result<Option<Value>> {
        if let Value::Loop(state) = value {
            let length = state.items.values().len();
            let index = state.index.get();
            let int = |i: usize| Ok(Some(Value::Int(i as i128)));
            match name {
                "index" => return int(index + 1),
                "index0" => return int(index),
                "revindex" => return int(length - index),
                "revindex0" => return int(length - index - 1),
                "first" => return Ok(Some(Value::Bool(index == 0))),
                "last" => return Ok(Some(Value::Bool(index + 1 == length))),
                "length" => return int(length),
                "depth" => return int(state.depth + 1),
                "depth0" => return int(state.depth),
                "previtem" => {
                    return match index.checked_sub(1) {
                        Some(i) => Ok(Some(state.items.values()[i].clone())),
                        None => self.undefined(&["there is no previous item"]).map(Some),
                    };
                }
                "nextitem" => {
                    return match state.items.values().get(index + 1) {
                        Some(value) => Ok(Some(value.clone())),
                        None => self.undefined(&["there is no next item"]).map(Some),
                    };
                }
                _ => {}
            }
        }
        if let Value::Tuple(items) = value
            && let Some(item) = items.named(name)
        {
            return Ok(Some(item.clone()));
        }
        match (value, name) {
            (Value::Macro(closure), "name") => {
                let name = closure.definition.name.map(|name| self.name(name));
                return Ok(Some(name.map_or(Value::None, Value::own)));
            }
            (Value::Cycler(cycler), "current") => {
                return Ok(cycler.0.values().get(cycler.1.get()).cloned());
            }
            (Value::Int(_) | Value::Bool(_), "real" | "numerator") => {
                return operators::plus(value).map(Some);
            }
            (Value::Int(_) | Value::Bool(_), "imag") => return Ok(Some(Value::Int(0))),
            (Value::Int(_) | Value::Bool(_), "denominator") => return Ok(Some(Value::Int(1))),
            _ => {}
        }
        if let Some(name) = methods::find(value, name) {
            self.budget.allocate(48)?;
            return Ok(Some(Value::Method(Rc::new(Method { receiver: value.clone(), name }))));
        }
        if methods::is_unsafe(value, name) {
            let message =
                ["access to attribute '", &short(name), "' of '", value.type_name(), "' object is unsafe."];
            return self.undefined(&message).map(Some);
        }
        Ok(None)
    }

    /// Computes `value[index]`.
    pub fn item(&self, value: &Value, index: &Value) -> Result<Value> {
        value.defined()?;
        let place = |length: usize| -> Option<usize> {
            let index = index.index()?;
            let length = length as i128;
            let index = if index < 0 { index + length } else { index };
            (0..length).contains(&index).then_some(index as usize)
        };
        let found = match value {
            Value::List(items) | Value::Tuple(items) => {
                place(items.values().len()).map(|i| items.values()[i].clone())
            }
            Value::Str(text) => {
                if index.index().is_some() {
                    let length = value.length(self)?;
                    match place(length) {
                        Some(i) => Some(Value::Str(operators::characters(self, text, i, i + 1)?)),
                        None => None,
                    }
                } else {
                    None
                }
            }
            Value::Dict(dict) => match index {
                Value::List(_) | Value::Dict(_) => None,
                _ => dict.get(self, index)?.cloned(),
            },
            Value::Range(start, step, length) => place(*length).map(|i| Value::Int(start + step * i as i128)),
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match index {
            Value::Str(name) if matches!(value, Value::Namespace(_)) => self.member(value, name.as_str()),
            Value::Str(name) => match self.attribute_of(value, name.as_str())? {
                Some(attribute) => Ok(attribute),
                None => self.no_attribute(value, name.as_str()),
            },
            _ => self.undefined(&[value.type_name(), " object has no such element"]),
        }
    }
}
