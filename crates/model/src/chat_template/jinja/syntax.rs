//! The syntax tree of a template: statements and expressions.
//!
//! Chains (operators, attributes, filters, `elif`) are flat lists, so that only nested source makes the tree deep.

use std::sync::Arc;

/// Index of an identifier in [`Template::names`].
pub type Name = u32;

/// A parsed template.
pub struct Template {
    /// The source with normalized line ends, for the line and column of errors.
    pub source: String,
    /// The texts of all identifiers. A [`Name`] is an index into this list.
    pub names: Vec<Arc<str>>,
    pub body: Vec<Statement>,
}

pub enum Statement {
    /// Text between tags.
    Data(Arc<str>),
    /// `{{ … }}` or `{% print … %}`.
    Print(Expression),
    /// `if` and every `elif`, each with its condition, and the body of `else`.
    If(Vec<(Expression, Vec<Statement>)>, Vec<Statement>),
    /// `for … endfor`.
    For(Arc<For>),
    /// `set a = b`.
    Set(Target, Expression),
    /// `set a | filter … endset`.
    SetBlock(Target, Vec<Step>, Vec<Statement>),
    /// `with a = b … endwith`.
    With(Vec<(Target, Expression)>, Vec<Statement>),
    /// `filter f … endfilter`.
    Filter(Vec<Step>, Vec<Statement>),
    /// `macro … endmacro`.
    Macro(Arc<Macro>),
    /// `call(…) f(…) … endcall`.
    Call(Arc<Macro>, Expression),
    /// `generation … endgeneration`. Its body has its own scope.
    Generation(Vec<Statement>),
    /// `block … endblock`.
    Block(Vec<Statement>),
    /// `break`.
    Break,
    /// `continue`.
    Continue,
    /// `include`, `import`, `from` or `extends`, with its byte offset. It always fails, because there are no other
    /// templates.
    Load(u32),
}

/// A `for` loop.
pub struct For {
    /// The target that each item is assigned to.
    pub target: Target,
    /// The expression that gives the items.
    pub iterated: Expression,
    /// The condition after `if`, which selects items.
    pub condition: Option<Expression>,
    /// True if the loop has the marker `recursive`, so that its body may call `loop(…)`.
    pub recursive: bool,
    pub body: Vec<Statement>,
    /// The body of `else`. It runs if there is no item.
    pub otherwise: Vec<Statement>,
    /// Byte offset in the source.
    pub at: u32,
}

/// A macro, or the body of a `call` block.
pub struct Macro {
    /// `None` for the body of a `call` block.
    pub name: Option<Name>,
    /// The parameters with their default values.
    pub parameters: Vec<(Name, Option<Expression>)>,
    pub body: Vec<Statement>,
    /// True if the body reads `caller`.
    pub caller: bool,
    /// True if the body reads `kwargs`.
    pub kwargs: bool,
    /// True if the body reads `varargs`.
    pub varargs: bool,
}

/// The left side of an assignment.
pub enum Target {
    /// A variable.
    Name(Name),
    /// Several targets, for unpacking, with the byte offset.
    Tuple(Vec<Target>, u32),
    /// An attribute of a namespace: the variable, the name of the attribute, and the byte offset.
    Attribute(Name, Arc<str>, u32),
}

/// An expression with its place in the source.
pub struct Expression {
    /// Byte offset in the source.
    pub at: u32,
    pub node: Node,
}

/// The kind and the parts of an expression.
pub enum Node {
    /// `None`.
    None,
    /// `True`, `False`.
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(Arc<str>),
    /// A variable.
    Name(Name),
    /// `[a, b]`.
    List(Vec<Expression>),
    /// `(a, b)`.
    Tuple(Vec<Expression>),
    /// `{a: b}`.
    Dict(Vec<(Expression, Expression)>),
    /// A base expression and the steps that follow it: attributes, items, calls, filters and tests.
    Chain(Box<Expression>, Vec<Step>),
    /// `not a`.
    Not(Box<Expression>),
    /// `-a`.
    Minus(Box<Expression>),
    /// `+a`.
    Plus(Box<Expression>),
    /// `a and b and …`.
    And(Vec<Expression>),
    /// `a or b or …`.
    Or(Vec<Expression>),
    /// `a < b == …`.
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    /// `a + b - …`, evaluated from left to right.
    Arithmetic(Box<Expression>, Vec<(Operator, Expression)>),
    /// `a ~ b ~ …`.
    Concat(Vec<Expression>),
    /// `b if a else c`, stored in the order a, b, c.
    If(Box<Expression>, Box<Expression>, Option<Box<Expression>>),
}

/// One step of a chain.
pub struct Step {
    /// Byte offset in the source.
    pub at: u32,
    pub link: Link,
}

/// The operation of a step.
pub enum Link {
    /// `.name`.
    Attribute(Arc<str>),
    /// `[item]`.
    Item(Expression),
    /// `[start:stop:step]`.
    Slice(Box<[Option<Expression>; 3]>),
    /// `(…)`.
    Call(Arguments),
    /// `| name(…)`.
    Filter(Arc<str>, Arguments),
    /// `is name(…)`; the flag is true for `is not name(…)`.
    Test(Arc<str>, Arguments, bool),
}

/// Arguments of a call.
#[derive(Default)]
pub struct Arguments {
    /// Arguments without a name, in order.
    pub positional: Vec<Expression>,
    /// Arguments with a name.
    pub named: Vec<(Arc<str>, Expression)>,
    /// `*list`.
    pub list: Option<Box<Expression>>,
    /// `**mapping`.
    pub mapping: Option<Box<Expression>>,
}

/// A comparison operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `==`.
    Equal,
    /// `!=`.
    Unequal,
    /// `<`.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
    /// `in`.
    In,
    /// `not in`.
    NotIn,
}

/// An arithmetic operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `+`.
    Add,
    /// `-`.
    Subtract,
    /// `*`.
    Multiply,
    /// `/`.
    Divide,
    /// `//`.
    FloorDivide,
    /// `%`.
    Remainder,
    /// `**`.
    Power,
}
