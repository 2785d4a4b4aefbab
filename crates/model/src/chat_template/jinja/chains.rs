//! Parses the steps that follow an expression: attributes, items, calls, filters and tests.

use super::lexer::Token;
use super::limits::{Error, Result};
use super::parser::Parser;
use super::syntax::{Arguments, Expression, Link, Node, Step};
use super::{filters, predicates};
use std::sync::Arc;

impl Parser {
    pub fn postfix(&mut self, steps: &mut Vec<Step>) -> Result<()> {
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

    /// Parses one filter with its arguments. The `|` is already taken.
    pub fn filter(&mut self) -> Result<Step> {
        let at = self.at();
        let name = self.dotted_name()?;
        if !self.optional && !filters::exists(&name) {
            return Err(Error::syntax(format!("No filter named {name:?}."), at as usize));
        }
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(Step { at, link: Link::Filter(name, arguments) })
    }

    pub fn filters_and_tests(&mut self, steps: &mut Vec<Step>) -> Result<()> {
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
