//! A template as data: statements and expressions.
//!
//! Chains (operators, attributes, filters, `elif`) are flat lists, so that only real nesting makes the tree deep.

use std::sync::Arc;

/// An identifier's number in [`Template::names`].
pub type Name = u32;

/// A parsed template.
pub struct Template {
    /// The source with normalized line ends, for places in errors.
    pub source: String,
    /// Every identifier, by number.
    pub names: Vec<Arc<str>>,
    /// The statements.
    pub body: Vec<Statement>,
}

/// A statement.
pub enum Statement {
    /// Text.
    Data(Arc<str>),
    /// `{{ … }}` or `{% print … %}`.
    Print(Expression),
    /// `if`, every `elif`, `else`.
    If(Vec<(Expression, Vec<Statement>)>, Vec<Statement>),
    /// A loop.
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
    /// `generation … endgeneration`: a scope of its own.
    Generation(Vec<Statement>),
    /// `block … endblock`.
    Block(Vec<Statement>),
    /// `break`.
    Break,
    /// `continue`.
    Continue,
    /// `include`, `import`, `from`, `extends`: there is nothing to load.
    Load(u32),
}

/// A loop.
pub struct For {
    /// Assigned in each iteration.
    pub target: Target,
    /// What is iterated over.
    pub iterated: Expression,
    /// `if …` of the loop.
    pub condition: Option<Expression>,
    /// Whether `loop(…)` may be called.
    pub recursive: bool,
    /// The body.
    pub body: Vec<Statement>,
    /// `else`.
    pub otherwise: Vec<Statement>,
    /// Place in the source.
    pub at: u32,
}

/// A macro, or the body of a `call`.
pub struct Macro {
    /// Its name; none for a `call`'s body.
    pub name: Option<Name>,
    /// Its parameters with their defaults.
    pub parameters: Vec<(Name, Option<Expression>)>,
    /// Its body.
    pub body: Vec<Statement>,
    /// Whether the body reads `caller`.
    pub caller: bool,
    /// Whether the body reads `kwargs`.
    pub kwargs: bool,
    /// Whether the body reads `varargs`.
    pub varargs: bool,
}

/// A place that a value is assigned to.
pub enum Target {
    /// A variable.
    Name(Name),
    /// Several, by unpacking.
    Tuple(Vec<Target>, u32),
    /// An attribute of a namespace.
    Attribute(Name, Arc<str>, u32),
}

/// An expression with its place in the source.
pub struct Expression {
    /// Byte offset.
    pub at: u32,
    /// What it is.
    pub node: Node,
}

/// What an expression is.
pub enum Node {
    /// `None`.
    None,
    /// `True`, `False`.
    Bool(bool),
    /// An integer.
    Integer(i128),
    /// A float.
    Float(f64),
    /// A string.
    String(Arc<str>),
    /// A variable.
    Name(Name),
    /// `[a, b]`.
    List(Vec<Expression>),
    /// `(a, b)`.
    Tuple(Vec<Expression>),
    /// `{a: b}`.
    Dict(Vec<(Expression, Expression)>),
    /// Attributes, items, calls, filters and tests, one after the other.
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
    /// `a + b - …`, from the left.
    Arithmetic(Box<Expression>, Vec<(Operator, Expression)>),
    /// `a ~ b ~ …`.
    Concat(Vec<Expression>),
    /// `b if a else c`: condition, then, else.
    If(Box<Expression>, Box<Expression>, Option<Box<Expression>>),
}

/// One link of a chain.
pub struct Step {
    /// Byte offset.
    pub at: u32,
    /// What it does.
    pub link: Link,
}

/// What a link does.
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
    /// `is name(…)`, or `is not`.
    Test(Arc<str>, Arguments, bool),
}

/// Arguments of a call.
#[derive(Default)]
pub struct Arguments {
    /// By position.
    pub positional: Vec<Expression>,
    /// By name.
    pub named: Vec<(Arc<str>, Expression)>,
    /// `*list`.
    pub list: Option<Box<Expression>>,
    /// `**mapping`.
    pub mapping: Option<Box<Expression>>,
}

/// `==` and its kin.
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

/// `+` and its kin.
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
