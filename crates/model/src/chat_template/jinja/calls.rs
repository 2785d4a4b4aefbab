//! Calls: arguments, macros, global functions.

use super::limits::{Error, Kind, Result, fail};
use super::run::{Closure, Run, short};
use super::text::{Builder, Text};
use super::value::{Dict, Function, Items, Value};
use super::{json, methods, operators};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// The evaluated arguments of a call.
#[derive(Default)]
pub struct Call {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Call {
    /// Returns the arguments in the order of the parameters `names`. Returns an error if an argument for one of the
    /// first `required` parameters is missing, or if there is an unknown argument.
    pub fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        let given = self.positional.len();
        if given > N {
            return fail(format!("{function}() takes at most {N} arguments ({given} given)"));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| **n == *name) {
                Some(i) if bound[i].is_some() => {
                    return fail(format!("{function}() got multiple values for argument '{name}'"));
                }
                Some(i) => bound[i] = Some(value),
                None => {
                    let name = short(&name);
                    return fail(format!("{function}() got an unexpected keyword argument '{name}'"));
                }
            }
        }
        match bound.iter().take(required).position(Option::is_none) {
            Some(missing) => fail(format!("{function}() missing required argument: '{}'", names[missing])),
            None => Ok(bound),
        }
    }

    /// Returns an error if there is an argument.
    pub fn nothing(self, function: &str) -> Result<()> {
        self.bind::<0>(function, [], 0).map(|_| ())
    }
}

impl Run<'_> {
    /// Computes `value(…)`.
    pub fn call(&self, value: &Value, call: Call) -> Result<Value> {
        match value.defined()? {
            Value::Macro(closure) => self.budget.deeper(|| self.invoke(closure, call)),
            Value::Method(method) => methods::call(self, &method.receiver, method.name, call),
            Value::Function(function) => self.function(*function, call),
            Value::Loop(state) => {
                let [iterated] = call.bind("loop", ["iterable"], 1)?;
                self.recurse(state, iterated.as_ref().unwrap_or(&Value::None))
            }
            Value::Joiner(joiner) => {
                call.nothing("joiner")?;
                let used = joiner.1.replace(true);
                Ok(Value::Str(if used { joiner.0.clone() } else { Text::own("") }))
            }
            other => fail(format!("'{}' object is not callable", other.type_name())),
        }
    }

    fn invoke(&self, closure: &Closure, call: Call) -> Result<Value> {
        let definition = &closure.definition;
        let name = definition.name.map_or("caller", |name| self.name(name));
        let scope = self.open(&closure.scope)?;
        let mut positional = call.positional.into_iter();
        let mut named = call.named;
        for (parameter, default) in &definition.parameters {
            let given = positional.next().or_else(|| {
                let place = named.iter().position(|(n, _)| **n == *self.name(*parameter))?;
                Some(named.remove(place).1)
            });
            let value = match (given, default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.evaluate(default, &scope)?,
                (None, None) => {
                    self.undefined(&["parameter '", &short(self.name(*parameter)), "' was not provided"])?
                }
            };
            self.set(&scope, *parameter, value)?;
        }
        self.budget.steps(self.template.names.len() / 8)?;
        let special = |name: &str| self.template.names.iter().position(|n| **n == *name).map(|i| i as u32);
        let explicit = definition.parameters.iter().any(|(p, _)| self.name(*p) == "caller");
        if definition.caller && !explicit {
            let place = named.iter().position(|(n, _)| **n == *"caller");
            let caller = match place {
                Some(place) => named.remove(place).1,
                None => self.undefined(&["No caller defined"])?,
            };
            if let Some(name) = special("caller") {
                self.set(&scope, name, caller)?;
            }
        }
        if definition.kwargs {
            let mut dict = Dict::new();
            for (name, value) in named {
                dict.set(self, Value::own(&name), value)?;
            }
            if let Some(name) = special("kwargs") {
                self.set(&scope, name, Value::Dict(Rc::new(dict)))?;
            }
        } else if let Some((argument, _)) = named.first() {
            return fail(format!("macro '{}' takes no keyword argument '{}'", short(name), short(argument)));
        }
        let rest: Vec<Value> = positional.collect();
        if definition.varargs {
            let rest = Value::tuple(self, rest)?;
            if let Some(name) = special("varargs") {
                self.set(&scope, name, rest)?;
            }
        } else if !rest.is_empty() {
            let most = definition.parameters.len();
            return fail(format!("macro '{}' takes not more than {most} argument(s)", short(name)));
        }
        let mut out = Builder::default();
        let result = self.statements(&definition.body, &scope, &mut out);
        self.close(scope);
        result?;
        Ok(Value::Str(out.finish()))
    }

    fn function(&self, function: Function, call: Call) -> Result<Value> {
        match function {
            Function::Range => {
                let [a, b, c] = call.bind("range", ["start", "stop", "step"], 1)?;
                operators::range(a.as_ref(), b.as_ref(), c.as_ref())
            }
            Function::Dict => Ok(Value::Dict(Rc::new(self.dict(call)?))),
            Function::Namespace => {
                let dict = self.dict(call)?;
                let mut attributes = Vec::new();
                for (key, value) in dict.entries() {
                    let Value::Str(key) = key else { return fail("attribute name must be string") };
                    attributes.push((key.shared(), value.clone()));
                }
                self.budget.steps(attributes.len() * attributes.len() / 4)?;
                self.new_namespace(attributes)
            }
            Function::Cycler => {
                if call.positional.is_empty() || !call.named.is_empty() {
                    return fail("at least one item has to be provided");
                }
                let items = Items::new(&self.budget, call.positional)?;
                Ok(Value::Cycler(Rc::new((items, Cell::new(0)))))
            }
            Function::Joiner => {
                let [separator] = call.bind("joiner", ["sep"], 0)?;
                let separator = match separator {
                    Some(value) => value.to_text(self)?,
                    None => Text::own(", "),
                };
                Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
            }
            Function::RaiseException => {
                let [message] = call.bind("raise_exception", ["message"], 1)?;
                let message = message.unwrap_or(Value::None).to_text(self)?;
                Err(Error { kind: Kind::Raised, message: message.as_str().to_owned(), at: None })
            }
            Function::StrftimeNow => {
                let [format] = call.bind("strftime_now", ["format"], 1)?;
                let Some(Value::Str(format)) = format else {
                    return fail("strftime() argument 1 must be str");
                };
                self.budget.allocate(16 * format.as_str().len())?;
                self.budget.steps(8 * format.as_str().len())?;
                let mut out = Builder::default();
                let time = (self.clock)();
                for (piece, user) in format.pieces(0..format.as_str().len()) {
                    out.push(&self.budget, &time.format(piece), user)?;
                }
                Ok(Value::Str(out.finish()))
            }
        }
    }

    /// Computes `dict(…)`.
    fn dict(&self, mut call: Call) -> Result<Dict> {
        let mut dict = Dict::new();
        if call.positional.len() > 1 {
            return fail("dict expected at most 1 argument");
        }
        match call.positional.pop() {
            Some(Value::Dict(source)) => {
                for (key, value) in source.entries() {
                    dict.set(self, key.clone(), value.clone())?;
                }
            }
            Some(source) => {
                for pair in source.iterate(self)?.values() {
                    let pair = pair.iterate(self)?;
                    let [key, value] = pair.values() else {
                        return fail("dictionary update sequence element has not length 2");
                    };
                    dict.set(self, key.clone(), value.clone())?;
                }
            }
            None => {}
        }
        for (name, value) in call.named {
            dict.set(self, Value::own(&name), value)?;
        }
        Ok(dict)
    }

    /// Computes the filter `tojson`.
    pub fn tojson(&self, value: &Value, call: Call) -> Result<Value> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ascii, indent, separators, sort] = call.bind("tojson", names, 0)?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Str(text)) => Some(text),
            Some(value) => match value.index() {
                Some(width) => Some(operators::repeat(self, &Text::own(" "), width)?),
                None => return fail("indent must be an integer, a string or None"),
            },
        };
        let (mut item, mut key) = (Text::own(if indent.is_some() { "," } else { ", " }), Text::own(": "));
        match separators {
            None | Some(Value::None) => {}
            Some(value) => {
                let pair = value.iterate(self)?;
                let [Value::Str(a), Value::Str(b)] = pair.values() else {
                    return fail("separators must be two strings");
                };
                (item, key) = (a.clone(), b.clone());
            }
        }
        let truth = |value: Option<Value>| value.is_some_and(|v| v.is_true());
        let style = json::Style { ascii: truth(ascii), indent, item, key, sort: truth(sort) };
        Ok(Value::Str(json::dumps(self, value, &style)?))
    }
}
