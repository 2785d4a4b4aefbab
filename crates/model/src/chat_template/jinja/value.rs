//! The values of Python that templates use.
//!
//! Invariant: lists and mappings are immutable and store their nesting depth, so that printing, comparing and dropping
//! them cannot overflow the stack. Namespaces are mutable. [`Run`] owns the namespaces, and a value holds only the
//! index of a namespace. So no namespace can own itself.

use super::limits::{Budget, Error, Result, VALUE_DEPTH, fail};
use super::run::{Closure, LoopState, Run};
use super::text::{Builder, Text};
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

/// A value of a template.
#[derive(Clone)]
pub enum Value {
    /// The value of a name that is not defined. The text is the error message for its use.
    Undefined(Rc<str>),
    /// `None`.
    None,
    /// `True`, `False`.
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    /// A mapping that keeps the order of insertion.
    Dict(Rc<Dict>),
    /// A view of a mapping, with the name of its type: `dict_keys`, `dict_values` or `dict_items`.
    View(&'static str, Rc<Items>),
    /// An iterator. Each of its values can be taken only one time.
    Generator(Rc<Generator>),
    /// `range`: start, step, length.
    Range(i128, i128, usize),
    /// A namespace, by its index in [`Run`].
    Namespace(usize),
    /// A macro, or the body of a `call` block.
    Macro(Rc<Closure>),
    Function(Function),
    /// A method and the value that it is called on.
    Method(Rc<Method>),
    /// `loop`.
    Loop(Rc<LoopState>),
    /// `cycler(…)`.
    Cycler(Rc<(Items, Cell<usize>)>),
    /// `joiner(…)`.
    Joiner(Rc<(Text, Cell<bool>)>),
}

/// A global function of templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

/// A method and the value that it is called on.
pub struct Method {
    pub receiver: Value,
    pub name: &'static str,
}

/// The values of a list or a tuple.
pub struct Items {
    values: Vec<Value>,
    depth: u32,
    /// True for a tuple of `groupby`, whose two items have the names `grouper` and `list`.
    group: bool,
}

/// The values of an iterator. `taken` is the number of values that were already taken.
pub struct Generator {
    items: Items,
    taken: Cell<usize>,
}

impl Items {
    /// Creates a list. Charges its memory to `budget` and bounds its nesting depth.
    pub fn new(budget: &Budget, values: Vec<Value>) -> Result<Self> {
        budget.values(values.len())?;
        let depth = 1 + values.iter().map(Value::depth).max().unwrap_or(0);
        if depth > VALUE_DEPTH {
            return Err(Error::limit(format!("its values are nested deeper than {VALUE_DEPTH} levels")));
        }
        Ok(Self { values, depth, group: false })
    }

    /// Creates a tuple of `groupby`.
    pub fn group(budget: &Budget, key: Value, items: Value) -> Result<Self> {
        Ok(Self { group: true, ..Self::new(budget, vec![key, items])? })
    }

    /// Returns the item with this name, if the tuple is a tuple of `groupby`.
    pub fn named(&self, name: &str) -> Option<&Value> {
        let place = ["grouper", "list"].iter().position(|n| *n == name).filter(|_| self.group)?;
        self.values.get(place)
    }

    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

impl Generator {
    /// Takes the next value.
    pub fn next(&self) -> Option<Value> {
        let value = self.items.values.get(self.taken.get())?;
        self.taken.set(self.taken.get() + 1);
        Some(value.clone())
    }

    /// Takes all remaining values.
    pub fn rest(&self) -> Vec<Value> {
        let from = self.taken.replace(self.items.values.len());
        self.items.values[from..].to_vec()
    }
}

/// A hashable form of a key. Keys that are equal in Python have the same form.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Rc<str>),
    Tuple(Vec<Key>),
    Undefined,
    Object(usize),
}

/// A mapping that keeps the order of insertion.
#[derive(Default)]
pub struct Dict {
    entries: Vec<(Value, Value)>,
    places: HashMap<Key, usize>,
    depth: u32,
}

impl Dict {
    pub fn new() -> Self {
        Self { depth: 1, ..Self::default() }
    }

    pub fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    /// Sets the value of a key.
    pub fn set(&mut self, run: &Run<'_>, key: Value, value: Value) -> Result<()> {
        run.budget.allocate(160)?;
        let depth = 1 + key.depth().max(value.depth());
        if depth > VALUE_DEPTH {
            return Err(Error::limit(format!("its values are nested deeper than {VALUE_DEPTH} levels")));
        }
        self.depth = self.depth.max(depth);
        let place = self.entries.len();
        match self.places.entry(key_of(run, &key)?) {
            std::collections::hash_map::Entry::Occupied(old) => self.entries[*old.get()].1 = value,
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(place);
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    /// Returns the value of a key. Returns an error if the key is not hashable.
    pub fn get(&self, run: &Run<'_>, key: &Value) -> Result<Option<&Value>> {
        let key = key_of(run, key)?;
        Ok(self.places.get(&key).map(|&place| &self.entries[place].1))
    }

    /// Returns the value of a string key.
    pub fn get_str(&self, run: &Run<'_>, key: &str) -> Result<Option<&Value>> {
        run.budget.scan(key.len())?;
        Ok(self.places.get(&Key::Str(key.into())).map(|&place| &self.entries[place].1))
    }
}

fn key_of(run: &Run<'_>, value: &Value) -> Result<Key> {
    run.budget.steps(1)?;
    Ok(match value {
        Value::None => Key::None,
        Value::Bool(b) => Key::Int(i128::from(*b)),
        Value::Int(i) => Key::Int(*i),
        Value::Float(f) if f.fract() == 0.0 && f.abs() < 1e30 => Key::Int(*f as i128),
        Value::Float(f) => Key::Float(f.to_bits()),
        Value::Str(text) => {
            run.budget.scan(text.as_str().len())?;
            Key::Str(text.shared())
        }
        Value::Tuple(items) => {
            run.budget.values(items.values.len())?;
            Key::Tuple(items.values.iter().map(|v| key_of(run, v)).collect::<Result<_>>()?)
        }
        Value::Undefined(_) => Key::Undefined,
        Value::Namespace(number) => Key::Object(*number),
        Value::Macro(closure) => Key::Object(Rc::as_ptr(closure) as usize),
        Value::Loop(state) => Key::Object(Rc::as_ptr(state) as usize),
        Value::Generator(generator) => Key::Object(Rc::as_ptr(generator) as usize),
        _ => return fail(format!("unhashable type: '{}'", value.type_name())),
    })
}

impl Value {
    /// Creates a string that the template wrote.
    pub fn own(text: &str) -> Self {
        Self::Str(Text::own(text))
    }

    /// Creates a list and charges its memory.
    pub fn list(run: &Run<'_>, values: Vec<Self>) -> Result<Self> {
        Ok(Self::List(Rc::new(Items::new(&run.budget, values)?)))
    }

    /// Creates a tuple and charges its memory.
    pub fn tuple(run: &Run<'_>, values: Vec<Self>) -> Result<Self> {
        Ok(Self::Tuple(Rc::new(Items::new(&run.budget, values)?)))
    }

    /// Creates an iterator and charges its memory.
    pub fn generator(run: &Run<'_>, values: Vec<Self>) -> Result<Self> {
        let items = Items::new(&run.budget, values)?;
        Ok(Self::Generator(Rc::new(Generator { items, taken: Cell::new(0) })))
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => items.depth,
            Self::Dict(dict) => dict.depth,
            Self::Generator(generator) => generator.items.depth,
            Self::Method(method) => 1 + method.receiver.depth(),
            Self::Loop(state) => 1 + state.items.depth,
            Self::Cycler(cycler) => cycler.0.depth,
            _ => 0,
        }
    }

    /// Returns the name of the value's type in Python.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(name, _) => name,
            Self::Generator(_) => "generator",
            Self::Range(..) => "range",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
            Self::Loop(_) => "LoopContext",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
        }
    }

    /// Returns `bool(value)`.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Str(text) => !text.as_str().is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => !items.values.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            Self::Range(_, _, length) => *length > 0,
            Self::Loop(state) => !state.items.values.is_empty(),
            _ => true,
        }
    }

    /// Returns the integer value of a bool or an integer, like Python's `operator.index`.
    pub fn index(&self) -> Option<i128> {
        match self {
            Self::Bool(b) => Some(i128::from(*b)),
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// Returns the value itself. If the value is undefined, returns the error for its use.
    pub fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(message) => fail(&**message),
            _ => Ok(self),
        }
    }

    /// Returns `len(value)`.
    pub fn length(&self, run: &Run<'_>) -> Result<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => {
                run.budget.scan(text.as_str().len())?;
                text.chars()
            }
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => items.values.len(),
            Self::Dict(dict) => dict.entries.len(),
            Self::Range(_, _, length) => *length,
            Self::Loop(state) => state.items.values.len(),
            _ => return fail(format!("object of type '{}' has no len()", self.type_name())),
        })
    }

    /// Returns the items of `iter(value)`. Takes the remaining values of a generator.
    pub fn iterate(&self, run: &Run<'_>) -> Result<Rc<Items>> {
        let values = match self {
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => return Ok(items.clone()),
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) => {
                // Each character needs two allocations in addition to its entry in the list.
                run.budget.allocate(64 * text.as_str().len())?;
                let mut values = Vec::new();
                for (at, c) in text.as_str().char_indices() {
                    values.push(Self::Str(text.slice(&run.budget, at..at + c.len_utf8())?));
                }
                values
            }
            Self::Dict(dict) => {
                run.budget.values(dict.entries.len())?;
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::Generator(generator) => generator.rest(),
            Self::Range(start, step, length) => {
                run.budget.values(*length)?;
                (0..*length as i128).map(|i| Self::Int(start + step * i)).collect()
            }
            _ => return fail(format!("'{}' object is not iterable", self.type_name())),
        };
        Ok(Rc::new(Items::new(&run.budget, values)?))
    }

    /// Returns true if `iter(value)` works.
    pub fn is_iterable(&self) -> bool {
        matches!(
            self,
            Self::Undefined(_)
                | Self::Str(_)
                | Self::List(_)
                | Self::Tuple(_)
                | Self::View(..)
                | Self::Dict(_)
                | Self::Generator(_)
                | Self::Range(..)
                | Self::Loop(_)
        )
    }

    /// Returns `str(value)`.
    pub fn to_text(&self, run: &Run<'_>) -> Result<Text> {
        if let Self::Str(text) = self {
            return Ok(text.clone());
        }
        let mut builder = Builder::default();
        super::print::display(run, self, &mut builder)?;
        Ok(builder.finish())
    }
}

/// Returns `a == b`.
pub fn equal(run: &Run<'_>, a: &Value, b: &Value) -> Result<bool> {
    use Value as V;
    run.budget.steps(1)?;
    let rows = |a: &[V], b: &[V]| -> Result<bool> {
        if a.len() != b.len() {
            return Ok(false);
        }
        for (a, b) in a.iter().zip(b) {
            if !equal(run, a, b)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(match (a, b) {
        (V::Undefined(_), V::Undefined(_)) | (V::None, V::None) => true,
        (V::Str(a), V::Str(b)) => {
            run.budget.scan(a.as_str().len().min(b.as_str().len()))?;
            a.as_str() == b.as_str()
        }
        (V::List(a), V::List(b)) | (V::Tuple(a), V::Tuple(b)) => rows(&a.values, &b.values)?,
        (V::View(kind, a), V::View(other, b)) => kind == other && rows(&a.values, &b.values)?,
        (V::Dict(a), V::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match b.get(run, key)? {
                    Some(other) if equal(run, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (V::Range(a, s, n), V::Range(b, t, m)) => n == m && (*n == 0 || (a == b && (*n == 1 || s == t))),
        (V::Namespace(a), V::Namespace(b)) => a == b,
        (V::Function(a), V::Function(b)) => a == b,
        (V::Macro(a), V::Macro(b)) => Rc::ptr_eq(a, b),
        (V::Loop(a), V::Loop(b)) => Rc::ptr_eq(a, b),
        (V::Generator(a), V::Generator(b)) => Rc::ptr_eq(a, b),
        (V::Method(a), V::Method(b)) => a.name == b.name && equal(run, &a.receiver, &b.receiver)?,
        _ => number_order(a, b) == Some(Ordering::Equal),
    })
}

fn number_order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Float(a), b) => a.partial_cmp(&(b.index()? as f64)),
        (a, Value::Float(b)) => (a.index()? as f64).partial_cmp(b),
        _ => Some(a.index()?.cmp(&b.index()?)),
    }
}

/// Compares two values. Returns `None` if one of them is NaN. Returns an error if their types have no order; `operator`
/// is the operator in the error message.
pub fn order(run: &Run<'_>, a: &Value, b: &Value, operator: &str) -> Result<Option<Ordering>> {
    run.budget.steps(1)?;
    a.defined()?;
    b.defined()?;
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => {
            run.budget.scan(a.as_str().len().min(b.as_str().len()))?;
            Ok(Some(a.as_str().cmp(b.as_str())))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.values.iter().zip(&b.values) {
                if !equal(run, a, b)? {
                    return order(run, a, b, operator);
                }
            }
            Ok(Some(a.values.len().cmp(&b.values.len())))
        }
        (
            Value::Bool(_) | Value::Int(_) | Value::Float(_),
            Value::Bool(_) | Value::Int(_) | Value::Float(_),
        ) => Ok(number_order(a, b)),
        _ => fail(format!(
            "'{operator}' not supported between instances of '{}' and '{}'",
            a.type_name(),
            b.type_name()
        )),
    }
}

/// Returns `a in b`.
pub fn contains(run: &Run<'_>, b: &Value, a: &Value) -> Result<bool> {
    run.budget.steps(1)?;
    match b {
        Value::Str(text) => {
            let Value::Str(part) = a else {
                return fail(format!("'in <string>' requires string as left operand, not {}", a.type_name()));
            };
            run.budget.scan(text.as_str().len())?;
            Ok(text.as_str().contains(part.as_str()))
        }
        Value::Dict(dict) => Ok(dict.get(run, a)?.is_some()),
        Value::Range(start, step, length) => Ok(a.index().is_some_and(|i| {
            let distance = i.checked_sub(*start).filter(|d| d.checked_rem(*step) == Some(0));
            distance.is_some_and(|d| (0..*length as i128).contains(&(d / step)))
        })),
        _ if b.is_iterable() => {
            for value in b.iterate(run)?.values() {
                if equal(run, value, a)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => fail(format!("argument of type '{}' is not iterable", b.type_name())),
    }
}
