//! One rendering: variables, output, statements.
//!
//! Scopes follow Jinja2: loops, macros and blocks have their own scope, `if` has no scope. A macro sees the variables
//! of the place where it was defined.

use super::json::from_json;
use super::limits::{Budget, Error, Result, fail};
use super::syntax::{For, Macro, Name, Statement, Step, Target, Template};
use super::text::{Builder, Text};
use super::value::{Function, Items, Value};
use crate::chat_template::clock::LocalTime;
use serde_json::{Map, Value as Json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// The global functions and their names.
const FUNCTIONS: [(&str, Function); 7] = [
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("cycler", Function::Cycler),
    ("joiner", Function::Joiner),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
];

/// The variables of a scope, and the scope around it.
pub struct Scope {
    variables: RefCell<BTreeMap<Name, Value>>,
    parent: Option<Rc<Scope>>,
}

/// A macro and the scope of its definition.
pub struct Closure {
    pub definition: Arc<Macro>,
    pub scope: Rc<Scope>,
}

/// The state of a loop. Templates see it as `loop`.
pub struct LoopState {
    pub items: Rc<Items>,
    pub index: Cell<usize>,
    pub depth: usize,
    /// Index in [`Run::changed`] of the last arguments of `loop.changed`. It is an index and not a value, because a
    /// value of a loop must not own the loop.
    pub changed: Cell<Option<usize>>,
    /// The statement of the loop, if templates may call the loop.
    pub recursive: Option<Arc<For>>,
    pub scope: Rc<Scope>,
}

/// The control flow after a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Next,
    Break,
    Continue,
}

type Attributes = Vec<(Rc<str>, Value)>;

/// The state of one rendering.
pub struct Run<'t> {
    pub template: &'t Template,
    pub budget: Budget,
    pub clock: &'t dyn Fn() -> LocalTime,
    variables: HashMap<&'t str, Value>,
    namespaces: RefCell<Vec<Attributes>>,
    pub changed: RefCell<Vec<Value>>,
    loop_name: Option<Name>,
    /// Closed scopes that a macro still holds. `render` empties them at its end. Otherwise a macro and a scope that
    /// contains it would keep each other alive.
    held: RefCell<Vec<Rc<Scope>>>,
}

impl<'t> Run<'t> {
    /// Prepares a rendering. The texts of `trusted` count as the template's own text. All texts in `variables` count as
    /// a user's text, except known roles of messages.
    pub fn new(
        template: &'t Template,
        variables: &'t Map<String, Json>,
        trusted: &'t [(String, String)],
        clock: &'t dyn Fn() -> LocalTime,
    ) -> Result<Self> {
        let mut run = Self {
            template,
            budget: Budget::new(),
            clock,
            variables: FUNCTIONS.iter().map(|(name, f)| (*name, Value::Function(*f))).collect(),
            namespaces: RefCell::default(),
            changed: RefCell::default(),
            loop_name: template.names.iter().position(|name| **name == *"loop").map(|i| i as Name),
            held: RefCell::default(),
        };
        for (name, text) in trusted {
            run.variables.insert(name, Value::own(text));
        }
        for (name, json) in variables {
            let value = from_json(&run, json)?;
            let value = if name == "messages" { with_roles(&run, value)? } else { value };
            run.variables.insert(name, value);
        }
        Ok(run)
    }

    /// Renders the template. Returns the text, and for each run of characters with the same origin: the byte offset of
    /// its end, and true if a user wrote the run.
    pub fn render(&self) -> Result<(String, Vec<(usize, bool)>)> {
        let root = Rc::new(Scope { variables: RefCell::default(), parent: None });
        let mut out = Builder::default();
        let result = self.statements(&self.template.body, &root, &mut out);
        self.close(root);
        for scope in self.held.borrow().iter() {
            let variables = std::mem::take(&mut *scope.variables.borrow_mut());
            drop(variables);
        }
        result.map(|_| out.into_parts())
    }

    /// Returns the text of an identifier.
    pub fn name(&self, name: Name) -> &str {
        &self.template.names[name as usize]
    }

    /// Creates a scope inside `parent`.
    pub fn open(&self, parent: &Rc<Scope>) -> Result<Rc<Scope>> {
        self.budget.allocate(64)?;
        Ok(Rc::new(Scope { variables: RefCell::default(), parent: Some(parent.clone()) }))
    }

    /// Closes a scope. If a macro holds the scope, keeps it until the end of the rendering.
    pub fn close(&self, scope: Rc<Scope>) {
        if Rc::strong_count(&scope) > 1 {
            self.held.borrow_mut().push(scope);
        }
    }

    /// Sets a variable of a scope.
    pub fn set(&self, scope: &Scope, name: Name, value: Value) -> Result<()> {
        self.budget.allocate(64)?;
        let old = scope.variables.borrow_mut().insert(name, value);
        drop(old);
        Ok(())
    }

    /// Returns the value of a variable in the innermost scope that has it, or of a global variable. If there is none,
    /// returns an undefined value.
    pub fn get(&self, scope: &Scope, name: Name) -> Result<Value> {
        let mut next = Some(scope);
        while let Some(scope) = next {
            self.budget.steps(1)?;
            if let Some(value) = scope.variables.borrow().get(&name) {
                return Ok(value.clone());
            }
            next = scope.parent.as_deref();
        }
        let name = self.name(name);
        match self.variables.get(name) {
            Some(value) => Ok(value.clone()),
            None => self.undefined(&[&format!("'{}' is undefined", short(name))]),
        }
    }

    /// Creates an undefined value. The parts of `message` form the error message for its use.
    pub fn undefined(&self, message: &[&str]) -> Result<Value> {
        let message = message.concat();
        self.budget.allocate(message.len() + 16)?;
        Ok(Value::Undefined(message.into()))
    }

    /// Creates a namespace.
    pub fn new_namespace(&self, attributes: Attributes) -> Result<Value> {
        self.budget.allocate(64 + 48 * attributes.len())?;
        let mut namespaces = self.namespaces.borrow_mut();
        namespaces.push(Vec::new());
        let number = namespaces.len() - 1;
        drop(namespaces);
        for (name, value) in attributes {
            self.set_attribute(number, &name, value)?;
        }
        Ok(Value::Namespace(number))
    }

    /// Returns the attributes of a namespace.
    pub fn namespace(&self, number: usize) -> Attributes {
        self.namespaces.borrow()[number].clone()
    }

    /// Returns an attribute of a namespace; `None` if it does not exist.
    pub fn attribute(&self, number: usize, name: &str) -> Result<Option<Value>> {
        let namespaces = self.namespaces.borrow();
        let attributes = &namespaces[number];
        self.budget.steps(1 + attributes.len() / 4)?;
        Ok(attributes.iter().find(|(n, _)| **n == *name).map(|(_, value)| value.clone()))
    }

    /// Sets an attribute of a namespace.
    pub fn set_attribute(&self, number: usize, name: &str, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return fail(format!("a namespace takes no attribute that begins with '_': '{}'", short(name)));
        }
        let mut namespaces = self.namespaces.borrow_mut();
        let attributes = &mut namespaces[number];
        self.budget.steps(1 + attributes.len() / 4)?;
        let old = match attributes.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, old)) => Some(std::mem::replace(old, value)),
            None => {
                self.budget.allocate(64 + name.len())?;
                attributes.push((name.into(), value));
                None
            }
        };
        drop(namespaces);
        drop(old);
        Ok(())
    }

    /// Runs statements and appends their text to `out`.
    pub fn statements(&self, body: &[Statement], scope: &Rc<Scope>, out: &mut Builder) -> Result<Flow> {
        self.budget.deeper(|| {
            for statement in body {
                self.budget.steps(1)?;
                let flow = self.statement(statement, scope, out)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>, out: &mut Builder) -> Result<Flow> {
        match statement {
            Statement::Data(text) => {
                self.budget.output(out.len() + text.len())?;
                out.own(&self.budget, text)?;
            }
            Statement::Print(expression) => {
                let value = self.evaluate(expression, scope)?;
                super::print::display(self, &value, out).map_err(|e| e.or_at(expression.at))?;
                self.budget.output(out.len())?;
            }
            Statement::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.evaluate(condition, scope)?.is_true() {
                        return self.statements(body, scope, out);
                    }
                }
                return self.statements(otherwise, scope, out);
            }
            Statement::For(statement) => {
                let iterated = self.evaluate(&statement.iterated, scope)?;
                self.loop_(statement, &iterated, 0, scope, out)?;
            }
            Statement::Set(target, expression) => {
                let value = self.evaluate(expression, scope)?;
                self.assign(target, value, scope)?;
            }
            Statement::SetBlock(target, filters, body) => {
                let value = self.captured(filters, body, scope)?;
                self.assign(target, value, scope)?;
            }
            Statement::Filter(filters, body) => {
                let value = self.captured(filters, body, scope)?;
                super::print::display(self, &value, out)?;
                self.budget.output(out.len())?;
            }
            Statement::With(values, body) => {
                let inner = self.open(scope)?;
                for (target, expression) in values {
                    let value = self.evaluate(expression, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.within(inner, body, out);
            }
            Statement::Macro(definition) => {
                let closure = Closure { definition: definition.clone(), scope: scope.clone() };
                self.budget.allocate(64)?;
                if let Some(name) = definition.name {
                    self.set(scope, name, Value::Macro(Rc::new(closure)))?;
                }
            }
            Statement::Call(definition, expression) => {
                let closure = Closure { definition: definition.clone(), scope: scope.clone() };
                let caller = Value::Macro(Rc::new(closure));
                let value = self.evaluate_with_caller(expression, caller, scope)?;
                super::print::display(self, &value, out)?;
                self.budget.output(out.len())?;
            }
            Statement::Generation(body) | Statement::Block(body) => {
                let inner = self.open(scope)?;
                return self.within(inner, body, out);
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Load(at) => {
                return Err(Error::new("no loader for this environment specified").or_at(*at));
            }
        }
        Ok(Flow::Next)
    }

    /// Runs statements in `scope`, and closes this scope.
    fn within(&self, scope: Rc<Scope>, body: &[Statement], out: &mut Builder) -> Result<Flow> {
        let flow = self.statements(body, &scope, out);
        self.close(scope);
        flow
    }

    /// Runs statements in a new scope, and applies filters to their text.
    fn captured(&self, filters: &[Step], body: &[Statement], scope: &Rc<Scope>) -> Result<Value> {
        let mut inner = Builder::default();
        let opened = self.open(scope)?;
        self.within(opened, body, &mut inner)?;
        self.links(Value::Str(inner.finish()), filters, scope, None)
    }

    fn loop_(
        &self,
        statement: &Arc<For>,
        iterated: &Value,
        depth: usize,
        scope: &Rc<Scope>,
        out: &mut Builder,
    ) -> Result<()> {
        let mut items = iterated.iterate(self).map_err(|e| e.or_at(statement.at))?;
        if let Some(condition) = &statement.condition {
            let mut chosen = Vec::new();
            for item in items.values() {
                let inner = self.open(scope)?;
                self.assign(&statement.target, item.clone(), &inner)?;
                let keep = self.evaluate(condition, &inner);
                self.close(inner);
                if keep?.is_true() {
                    chosen.push(item.clone());
                }
            }
            items = Rc::new(Items::new(&self.budget, chosen)?);
        }
        if items.values().is_empty() {
            let inner = self.open(scope)?;
            self.within(inner, &statement.otherwise, out)?;
            return Ok(());
        }
        let recursive = statement.recursive.then(|| statement.clone());
        self.budget.allocate(128)?;
        let state = Rc::new(LoopState {
            items: items.clone(),
            index: Cell::new(0),
            depth,
            changed: Cell::new(None),
            recursive,
            scope: scope.clone(),
        });
        for (index, item) in items.values().iter().enumerate() {
            self.budget.steps(1)?;
            state.index.set(index);
            let inner = self.open(scope)?;
            if let Some(name) = self.loop_name {
                self.set(&inner, name, Value::Loop(state.clone()))?;
            }
            self.assign(&statement.target, item.clone(), &inner)?;
            if self.within(inner, &statement.body, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// Runs the body of a recursive loop for other items: `loop(…)`.
    pub fn recurse(&self, state: &LoopState, iterated: &Value) -> Result<Value> {
        let Some(statement) = &state.recursive else {
            return fail("The loop must have the 'recursive' marker to be called recursively.");
        };
        let mut out = Builder::default();
        self.budget.deeper(|| self.loop_(statement, iterated, state.depth + 1, &state.scope, &mut out))?;
        Ok(Value::Str(out.finish()))
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => self.set(scope, *name, value),
            Target::Tuple(targets, at) => {
                let items = value.iterate(self).map_err(|e| e.or_at(*at))?;
                if items.values().len() != targets.len() {
                    let (found, wanted) = (items.values().len(), targets.len());
                    return Err(Error::new(format!("{found} values to unpack, expected {wanted}")).or_at(*at));
                }
                for (target, value) in targets.iter().zip(items.values()) {
                    self.assign(target, value.clone(), scope)?;
                }
                Ok(())
            }
            Target::Attribute(name, attribute, at) => {
                let Value::Namespace(number) = self.get(scope, *name)? else {
                    return Err(Error::new("cannot assign attribute on non-namespace object").or_at(*at));
                };
                self.set_attribute(number, attribute, value).map_err(|e| e.or_at(*at))
            }
        }
    }
}

/// Returns a name for an error message, cut after 80 characters.
pub fn short(name: &str) -> String {
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Roles that programs set. Any other role is a user's text, like the content of a message.
const ROLES: [&str; 12] = [
    "system",
    "user",
    "assistant",
    "tool",
    "developer",
    "function",
    "ipython",
    "model",
    "observation",
    "tool_response",
    "environment",
    "context",
];

/// Returns the messages with all known roles marked as the template's own text, because templates build control tokens
/// from roles.
fn with_roles(run: &Run<'_>, messages: Value) -> Result<Value> {
    let Value::List(items) = &messages else { return Ok(messages) };
    let mut changed = Vec::new();
    for message in items.values() {
        let Value::Dict(dict) = message else {
            changed.push(message.clone());
            continue;
        };
        let mut copy = super::value::Dict::new();
        for (key, value) in dict.entries() {
            let value = match (key, value) {
                (Value::Str(key), Value::Str(role))
                    if key.as_str() == "role" && ROLES.contains(&role.as_str()) =>
                {
                    Value::Str(Text::own(role.as_str()))
                }
                _ => value.clone(),
            };
            copy.set(run, key.clone(), value)?;
        }
        changed.push(Value::Dict(Rc::new(copy)));
    }
    Value::list(run, changed)
}
