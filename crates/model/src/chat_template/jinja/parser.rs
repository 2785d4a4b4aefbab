//! Tokens to a template's tree, as `jinja2/parser.py`: the expressions. The statements stand in `statements.rs`.

use super::lexer::{self, Token};
use super::limits::{Error, Kind, Result, SOURCE_DEPTH};
use super::syntax::{Arguments, Comparison, Expression, Link, Name, Node, Operator, Step, Template};
use super::{filters, predicates};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Parses a whole source.
pub fn parse(source: &str) -> Result<Template> {
    let source = lexer::normalize(source);
    let mut parser = Parser {
        tokens: lexer::tokens(&source)?,
        next: 0,
        names: Vec::new(),
        numbers: HashMap::new(),
        depth: 0,
        optional: false,
        loops: 0,
        macros: Vec::new(),
        blocks: HashSet::new(),
    };
    let body = parser.body(&[])?;
    Ok(Template { names: parser.names, body, source })
}

/// What a macro's body reads of the special names.
#[derive(Clone, Copy, Default)]
pub struct Reads {
    pub caller: bool,
    pub kwargs: bool,
    pub varargs: bool,
}

pub struct Parser {
    tokens: Vec<(u32, Token)>,
    next: usize,
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Name>,
    depth: usize,
    /// Inside a branch: unknown filters are an error only where they are reached.
    pub optional: bool,
    /// Loops around this place, within one macro.
    pub loops: usize,
    pub macros: Vec<Reads>,
    pub blocks: HashSet<Arc<str>>,
}

impl Parser {
    pub fn token(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn after(&self) -> &Token {
        &self.tokens[(self.next + 1).min(self.tokens.len() - 1)].1
    }

    pub fn at(&self) -> u32 {
        self.tokens[self.next].0
    }

    pub fn advance(&mut self) {
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
    }

    pub fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::syntax(message, self.at() as usize))
    }

    pub fn unexpected<T>(&self, expected: &str) -> Result<T> {
        if *self.token() == Token::End {
            return self.fail(format!("unexpected end of template, expected {expected:?}"));
        }
        self.fail(format!("expected token {expected:?}, got {}", describe(self.token())))
    }

    /// One level deeper in the source.
    pub fn deeper<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= SOURCE_DEPTH {
            let message = format!("it is nested deeper than {SOURCE_DEPTH} levels");
            return Err(Error { kind: Kind::Limit, message, at: Some(self.at()) });
        }
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        result
    }

    pub fn number(&mut self, name: &Arc<str>) -> Name {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.names.len() as Name;
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    pub fn is_operator(&self, operator: &str) -> bool {
        matches!(self.token(), Token::Operator(o) if *o == operator)
    }

    pub fn is_word(&self, word: &str) -> bool {
        matches!(self.token(), Token::Name(n) if **n == *word)
    }

    pub fn take_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        if found {
            self.advance();
        }
        found
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    pub fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.take_operator(operator) { Ok(()) } else { self.unexpected(operator) }
    }

    pub fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.take_word(word) { Ok(()) } else { self.unexpected(word) }
    }

    pub fn expect_name(&mut self) -> Result<Arc<str>> {
        let Token::Name(name) = self.token() else { return self.unexpected("name") };
        let name = name.clone();
        self.advance();
        Ok(name)
    }

    /// Several expressions with commas between them are a tuple.
    pub fn tuple(&mut self, conditional: bool, parentheses: bool) -> Result<Expression> {
        let at = self.at();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ends = matches!(self.token(), Token::VariableEnd | Token::BlockEnd)
                || self.is_operator(")")
                || (!conditional && self.is_word("recursive"));
            if ends {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.or()? });
            if !self.take_operator(",") {
                break;
            }
            is_tuple = true;
        }
        if is_tuple || (items.is_empty() && parentheses) {
            return Ok(Expression { at, node: Node::Tuple(items) });
        }
        match items.pop() {
            Some(item) => Ok(item),
            None => self.fail(format!("Expected an expression, got {}", describe(self.token()))),
        }
    }

    pub fn expression(&mut self) -> Result<Expression> {
        self.deeper(|parser| {
            let mut first = parser.or()?;
            let mut links = 0;
            while parser.is_word("if") {
                let at = parser.at();
                parser.advance();
                // Each link is a level of the tree.
                links += 1;
                if links > SOURCE_DEPTH {
                    return Err(Error {
                        kind: Kind::Limit,
                        message: format!("more than {SOURCE_DEPTH} conditions in one expression"),
                        at: Some(at),
                    });
                }
                let outer = std::mem::replace(&mut parser.optional, true);
                let condition = parser.or()?;
                let otherwise =
                    if parser.take_word("else") { Some(Box::new(parser.expression()?)) } else { None };
                parser.optional = outer;
                first = Expression { at, node: Node::If(Box::new(condition), Box::new(first), otherwise) };
            }
            Ok(first)
        })
    }

    pub fn or(&mut self) -> Result<Expression> {
        let at = self.at();
        let mut items = vec![self.and()?];
        while self.take_word("or") {
            items.push(self.and()?);
        }
        Ok(one_or(items, at, Node::Or))
    }

    fn and(&mut self) -> Result<Expression> {
        let at = self.at();
        let mut items = vec![self.not()?];
        while self.take_word("and") {
            items.push(self.not()?);
        }
        Ok(one_or(items, at, Node::And))
    }

    fn not(&mut self) -> Result<Expression> {
        let at = self.at();
        if self.take_word("not") {
            let inner = self.deeper(Self::not)?;
            return Ok(Expression { at, node: Node::Not(Box::new(inner)) });
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expression> {
        let at = self.at();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.token() {
                Token::Operator("==") => Comparison::Equal,
                Token::Operator("!=") => Comparison::Unequal,
                Token::Operator("<") => Comparison::Less,
                Token::Operator("<=") => Comparison::LessOrEqual,
                Token::Operator(">") => Comparison::Greater,
                Token::Operator(">=") => Comparison::GreaterOrEqual,
                Token::Name(word) if **word == *"in" => Comparison::In,
                Token::Name(word)
                    if **word == *"not" && matches!(self.after(), Token::Name(n) if **n == *"in") =>
                {
                    self.advance();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.advance();
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expression { at, node: Node::Compare(Box::new(first), rest) })
    }

    fn chain(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Self) -> Result<Expression>,
    ) -> Result<Expression> {
        let at = self.at();
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.is_operator(text)) {
            self.advance();
            rest.push((*operator, operand(self)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expression { at, node: Node::Arithmetic(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Result<Expression> {
        self.chain(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expression> {
        let at = self.at();
        let mut items = vec![self.product()?];
        while self.take_operator("~") {
            items.push(self.product()?);
        }
        Ok(one_or(items, at, Node::Concat))
    }

    fn product(&mut self) -> Result<Expression> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.chain(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expression> {
        self.chain(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, filters: bool) -> Result<Expression> {
        let at = self.at();
        let node = if self.take_operator("-") {
            Node::Minus(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.take_operator("+") {
            Node::Plus(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?.node
        };
        let mut steps = Vec::new();
        self.postfix(&mut steps)?;
        if filters {
            self.filters_and_tests(&mut steps)?;
        }
        let base = Expression { at, node };
        if steps.is_empty() {
            return Ok(base);
        }
        Ok(Expression { at, node: Node::Chain(Box::new(base), steps) })
    }

    fn read(&mut self, name: &Arc<str>) -> Name {
        for reads in &mut self.macros {
            match &**name {
                "caller" => reads.caller = true,
                "kwargs" => reads.kwargs = true,
                "varargs" => reads.varargs = true,
                _ => {}
            }
        }
        self.number(name)
    }

    pub fn primary(&mut self) -> Result<Expression> {
        let at = self.at();
        let node = match self.token().clone() {
            Token::Name(name) => {
                self.advance();
                match &*name {
                    "true" | "True" => Node::Bool(true),
                    "false" | "False" => Node::Bool(false),
                    "none" | "None" => Node::None,
                    _ => Node::Name(self.read(&name)),
                }
            }
            Token::String(first) => {
                self.advance();
                let mut text = first;
                if matches!(self.token(), Token::String(_)) {
                    let mut joined = text.to_string();
                    while let Token::String(more) = self.token() {
                        joined.push_str(more);
                        self.advance();
                    }
                    text = joined.into();
                }
                Node::String(text)
            }
            Token::Integer(value) => {
                self.advance();
                Node::Integer(value)
            }
            Token::Float(value) => {
                self.advance();
                Node::Float(value)
            }
            Token::Operator("(") => {
                self.advance();
                let inner = self.deeper(|parser| parser.tuple(true, true))?;
                self.expect_operator(")")?;
                inner.node
            }
            Token::Operator("[") => {
                self.advance();
                Node::List(self.deeper(Self::list)?)
            }
            Token::Operator("{") => {
                self.advance();
                Node::Dict(self.deeper(Self::dict)?)
            }
            other => return self.fail(format!("unexpected {}", describe(&other))),
        };
        Ok(Expression { at, node })
    }

    fn list(&mut self) -> Result<Vec<Expression>> {
        let mut items = Vec::new();
        while !self.is_operator("]") {
            items.push(self.expression()?);
            if !self.is_operator("]") {
                self.expect_operator(",")?;
            }
        }
        self.advance();
        Ok(items)
    }

    fn dict(&mut self) -> Result<Vec<(Expression, Expression)>> {
        let mut items = Vec::new();
        while !self.is_operator("}") {
            let key = self.expression()?;
            self.expect_operator(":")?;
            items.push((key, self.expression()?));
            if !self.is_operator("}") {
                self.expect_operator(",")?;
            }
        }
        self.advance();
        Ok(items)
    }

    fn postfix(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        loop {
            let at = self.at();
            let link = match self.token() {
                Token::Operator(".") => {
                    self.advance();
                    let link = match self.token().clone() {
                        Token::Name(name) => Link::Attribute(name),
                        Token::Integer(index) => {
                            Link::Item(Expression { at: self.at(), node: Node::Integer(index) })
                        }
                        _ => return self.fail("expected name or number"),
                    };
                    self.advance();
                    link
                }
                Token::Operator("[") => {
                    self.advance();
                    self.deeper(Self::subscript)?
                }
                Token::Operator("(") => Link::Call(self.arguments()?),
                _ => return Ok(()),
            };
            steps.push(Step { at, link });
        }
    }

    fn subscript(&mut self) -> Result<Link> {
        let at = self.at();
        let mut items = Vec::new();
        let mut slice = None;
        while !self.is_operator("]") {
            if !items.is_empty() || slice.is_some() {
                self.expect_operator(",")?;
            }
            if slice.is_some() {
                return self.fail("slices in a tuple are not supported");
            }
            let start = if self.is_operator(":") { None } else { Some(self.expression()?) };
            if !self.take_operator(":") {
                items.extend(start);
                continue;
            }
            if !items.is_empty() {
                return self.fail("slices in a tuple are not supported");
            }
            let ends = |parser: &Self| parser.is_operator("]") || parser.is_operator(",");
            let stop = if self.is_operator(":") || ends(self) { None } else { Some(self.expression()?) };
            let step = if self.take_operator(":") && !ends(self) { Some(self.expression()?) } else { None };
            slice = Some(Box::new([start, stop, step]));
        }
        self.advance();
        if let Some(slice) = slice {
            return Ok(Link::Slice(slice));
        }
        Ok(Link::Item(if items.len() == 1 {
            items.remove(0)
        } else {
            Expression { at, node: Node::Tuple(items) }
        }))
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.deeper(|parser| {
            let invalid = "invalid syntax for function call expression";
            let mut arguments = Arguments::default();
            parser.expect_operator("(")?;
            let mut first = true;
            while !parser.is_operator(")") {
                if !first {
                    parser.expect_operator(",")?;
                    if parser.is_operator(")") {
                        break;
                    }
                }
                first = false;
                if parser.is_operator("*") {
                    if arguments.list.is_some() || arguments.mapping.is_some() {
                        return parser.fail(invalid);
                    }
                    parser.advance();
                    arguments.list = Some(Box::new(parser.expression()?));
                } else if parser.is_operator("**") {
                    if arguments.mapping.is_some() {
                        return parser.fail(invalid);
                    }
                    parser.advance();
                    arguments.mapping = Some(Box::new(parser.expression()?));
                } else if matches!(parser.token(), Token::Name(_)) && *parser.after() == Token::Operator("=")
                {
                    if arguments.mapping.is_some() {
                        return parser.fail(invalid);
                    }
                    let name = parser.expect_name()?;
                    parser.advance();
                    if arguments.named.iter().any(|(n, _)| *n == name) {
                        return parser.fail(format!("keyword argument repeated: {name}"));
                    }
                    if arguments.named.len() > 1000 {
                        return parser.fail("more than 1000 keyword arguments");
                    }
                    arguments.named.push((name, parser.expression()?));
                } else {
                    if arguments.list.is_some() || arguments.mapping.is_some() || !arguments.named.is_empty()
                    {
                        return parser.fail(invalid);
                    }
                    arguments.positional.push(parser.expression()?);
                }
            }
            parser.advance();
            Ok(arguments)
        })
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let first = self.expect_name()?;
        if !self.is_operator(".") {
            return Ok(first);
        }
        let mut name = first.to_string();
        while self.take_operator(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name.into())
    }

    /// One filter with its arguments, behind its `|`.
    pub fn filter(&mut self) -> Result<Step> {
        let at = self.at();
        let name = self.dotted_name()?;
        if !self.optional && !filters::exists(&name) {
            return Err(Error::syntax(format!("No filter named {name:?}."), at as usize));
        }
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(Step { at, link: Link::Filter(name, arguments) })
    }

    fn filters_and_tests(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        loop {
            let at = self.at();
            if self.take_operator("|") {
                let step = self.filter()?;
                steps.push(step);
            } else if self.is_word("is") {
                self.advance();
                let step = self.test(at)?;
                steps.push(step);
            } else if self.is_operator("(") {
                let link = Link::Call(self.arguments()?);
                steps.push(Step { at, link });
            } else {
                return Ok(());
            }
        }
    }

    fn test(&mut self, at: u32) -> Result<Step> {
        let negated = self.take_word("not");
        let name = self.dotted_name()?;
        if !self.optional && !predicates::exists(&name) {
            return Err(Error::syntax(format!("No test named {name:?}."), at as usize));
        }
        let mut arguments = Arguments::default();
        let begins = match self.token() {
            Token::Name(word) => !matches!(&**word, "else" | "or" | "and"),
            Token::String(_) | Token::Integer(_) | Token::Float(_) | Token::Operator("[" | "{") => true,
            _ => false,
        };
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else if begins {
            if self.is_word("is") {
                return self.fail("You cannot chain multiple tests with is");
            }
            let argument_at = self.at();
            let base = self.primary()?;
            let mut steps = Vec::new();
            self.postfix(&mut steps)?;
            arguments.positional.push(if steps.is_empty() {
                base
            } else {
                Expression { at: argument_at, node: Node::Chain(Box::new(base), steps) }
            });
        }
        Ok(Step { at, link: Link::Test(name, arguments, negated) })
    }
}

fn one_or(mut items: Vec<Expression>, at: u32, many: fn(Vec<Expression>) -> Node) -> Expression {
    if items.len() == 1 { items.remove(0) } else { Expression { at, node: many(items) } }
}

/// A token as errors name it.
pub fn describe(token: &Token) -> String {
    match token {
        Token::Data(_) => "text".into(),
        Token::VariableBegin => "'{{'".into(),
        Token::VariableEnd => "'}}'".into(),
        Token::BlockBegin => "'{%'".into(),
        Token::BlockEnd => "'%}'".into(),
        Token::Name(name) => format!("'{name}'"),
        Token::String(_) => "a string".into(),
        Token::Integer(_) => "an integer".into(),
        Token::Float(_) => "a float".into(),
        Token::Operator(operator) => format!("'{operator}'"),
        Token::End => "the end of the template".into(),
    }
}
