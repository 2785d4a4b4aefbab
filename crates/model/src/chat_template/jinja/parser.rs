//! Parses expressions, like `jinja2/parser.py`. `chains.rs` parses the steps that follow an expression, and
//! `statements.rs` parses the statements.

use super::lexer::{self, Token};
use super::limits::{Error, Kind, Result, SOURCE_DEPTH};
use super::syntax::{Comparison, Expression, Name, Node, Operator, Template};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Parses the source of a template.
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

/// The special names that the body of a macro reads.
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
    /// True inside a conditional branch. There, unknown filters and tests are an error only if they are evaluated.
    pub optional: bool,
    /// Number of loops around this place, within one macro.
    pub loops: usize,
    pub macros: Vec<Reads>,
    pub blocks: HashSet<Arc<str>>,
}

impl Parser {
    pub fn token(&self) -> &Token {
        &self.tokens[self.next].1
    }

    pub fn after(&self) -> &Token {
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

    /// Runs `inside` one nesting level deeper in the source.
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

    /// Parses one expression, or a tuple: several expressions with commas between them.
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
                // Each `if` adds one level to the tree.
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
}

fn one_or(mut items: Vec<Expression>, at: u32, many: fn(Vec<Expression>) -> Node) -> Expression {
    if items.len() == 1 { items.remove(0) } else { Expression { at, node: many(items) } }
}

/// Returns the name of a token for error messages.
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
