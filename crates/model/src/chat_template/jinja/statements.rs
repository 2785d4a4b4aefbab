//! Parses the statements of a template.

use super::lexer::Token;
use super::limits::Result;
use super::parser::{Parser, describe};
use super::syntax::{Expression, For, Link, Macro, Name, Node, Statement, Step, Target};
use std::sync::Arc;

/// Keywords that cannot be the name of a variable.
const CONSTANTS: [&str; 6] = ["true", "false", "none", "True", "False", "None"];

type Signature = Vec<(Name, Option<Expression>)>;

impl Parser {
    /// Parses statements up to a tag whose name is in `ends`. This name is then the next token. If `ends` is empty,
    /// parses up to the end of the source.
    pub fn body(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        let mut body = Vec::new();
        loop {
            match self.token().clone() {
                Token::End if ends.is_empty() => return Ok(body),
                Token::End => {
                    return self.fail(format!("Unexpected end of template. Expected {}", ends.join(" or ")));
                }
                Token::Data(text) => {
                    self.advance();
                    body.push(Statement::Data(text));
                }
                Token::VariableBegin => {
                    self.advance();
                    let printed = self.tuple(true, false)?;
                    if *self.token() != Token::VariableEnd {
                        return self.unexpected("end of print statement");
                    }
                    self.advance();
                    body.push(Statement::Print(printed));
                }
                _ => {
                    self.advance();
                    if ends.iter().any(|end| self.is_word(end)) {
                        return Ok(body);
                    }
                    self.deeper(|parser| parser.statement(&mut body))?;
                    self.block_end()?;
                }
            }
        }
    }

    fn block_end(&mut self) -> Result<()> {
        if *self.token() != Token::BlockEnd {
            return self.unexpected("end of statement block");
        }
        self.advance();
        Ok(())
    }

    /// Parses the end of a tag, and the statements after it up to a tag whose name is in `ends`.
    fn inner(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        self.take_operator(":");
        self.block_end()?;
        self.body(ends)
    }

    /// Parses the body of a statement that has its own scope. Takes the name `end` of the end tag, too.
    fn scope(&mut self, end: &str) -> Result<Vec<Statement>> {
        let outer = std::mem::replace(&mut self.optional, false);
        let body = self.inner(&[end])?;
        self.optional = outer;
        self.advance();
        Ok(body)
    }

    /// Parses the body of a macro or of a `call` block. `break` and `continue` in it cannot refer to a loop around it.
    fn function(&mut self, end: &str) -> Result<Vec<Statement>> {
        let loops = std::mem::replace(&mut self.loops, 0);
        let body = self.scope(end)?;
        self.loops = loops;
        Ok(body)
    }

    fn statement(&mut self, body: &mut Vec<Statement>) -> Result<()> {
        let at = self.at();
        let Token::Name(tag) = self.token().clone() else { return self.fail("tag name expected") };
        self.advance();
        let statement = match &*tag {
            "if" => self.if_()?,
            "for" => self.for_(at)?,
            "set" => self.set()?,
            "macro" => self.macro_()?,
            "call" => self.call()?,
            "filter" => {
                let mut steps = vec![self.filter()?];
                self.more_filters(&mut steps)?;
                Statement::Filter(steps, self.scope("endfilter")?)
            }
            "with" => {
                let mut values = Vec::new();
                while *self.token() != Token::BlockEnd {
                    if !values.is_empty() {
                        self.expect_operator(",")?;
                    }
                    let target = self.target(false)?;
                    self.expect_operator("=")?;
                    values.push((target, self.expression()?));
                }
                Statement::With(values, self.scope("endwith")?)
            }
            "print" => {
                while *self.token() != Token::BlockEnd {
                    body.push(Statement::Print(self.expression()?));
                    if *self.token() != Token::BlockEnd {
                        self.expect_operator(",")?;
                    }
                }
                return Ok(());
            }
            "generation" => Statement::Generation(self.function("endgeneration")?),
            "block" => {
                let name = self.expect_name()?;
                if !self.blocks.insert(name.clone()) {
                    return self.fail(format!("block {name:?} defined twice"));
                }
                self.take_word("scoped");
                self.take_word("required");
                let inner = self.function("endblock")?;
                self.take_word(&name);
                Statement::Block(inner)
            }
            "break" | "continue" if self.loops == 0 => {
                return self.fail(format!("'{tag}' outside loop"));
            }
            "break" => Statement::Break,
            "continue" => Statement::Continue,
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.token(), Token::BlockEnd | Token::End) {
                    self.advance();
                }
                Statement::Load(at)
            }
            _ => return self.fail(format!("Encountered unknown tag '{tag}'.")),
        };
        body.push(statement);
        Ok(())
    }

    fn if_(&mut self) -> Result<Statement> {
        let mut branches = Vec::new();
        let outer = self.optional;
        loop {
            let condition = self.tuple(false, false)?;
            self.optional = true;
            let body = self.inner(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if self.take_word("elif") {
                continue;
            }
            let otherwise = if self.take_word("else") { self.inner(&["endif"])? } else { Vec::new() };
            self.advance();
            self.optional = outer;
            return Ok(Statement::If(branches, otherwise));
        }
    }

    fn for_(&mut self, at: u32) -> Result<Statement> {
        let target = self.target(false)?;
        self.expect_word("in")?;
        let iterated = self.tuple(false, false)?;
        let condition = if self.take_word("if") { Some(self.expression()?) } else { None };
        let recursive = self.take_word("recursive");
        let outer = std::mem::replace(&mut self.optional, false);
        self.loops += 1;
        let body = self.inner(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if self.take_word("else") { self.inner(&["endfor"])? } else { Vec::new() };
        self.advance();
        self.optional = outer;
        Ok(Statement::For(Arc::new(For { target, iterated, condition, recursive, body, otherwise, at })))
    }

    fn set(&mut self) -> Result<Statement> {
        let target = self.target(true)?;
        if self.take_operator("=") {
            return Ok(Statement::Set(target, self.tuple(true, false)?));
        }
        let mut filters = Vec::new();
        self.more_filters(&mut filters)?;
        Ok(Statement::SetBlock(target, filters, self.scope("endset")?))
    }

    fn more_filters(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        while self.take_operator("|") {
            steps.push(self.filter()?);
        }
        Ok(())
    }

    fn macro_(&mut self) -> Result<Statement> {
        let name = self.assigned()?;
        self.expect_operator("(")?;
        let (parameters, body, reads) = self.with_signature("endmacro", true)?;
        Ok(Statement::Macro(Arc::new(Macro {
            name: Some(name),
            parameters,
            body,
            caller: reads.caller,
            kwargs: reads.kwargs,
            varargs: reads.varargs,
        })))
    }

    fn call(&mut self) -> Result<Statement> {
        let parameters = if self.take_operator("(") { self.signature()? } else { Vec::new() };
        let call = self.expression()?;
        let is_call = matches!(&call.node, Node::Chain(_, steps) if matches!(steps.last().map(|s| &s.link), Some(Link::Call(_))));
        if !is_call {
            return self.fail("expected call");
        }
        let (_, body, reads) = self.with_signature("endcall", false)?;
        let body = Macro {
            name: None,
            parameters,
            body,
            caller: reads.caller,
            kwargs: reads.kwargs,
            varargs: reads.varargs,
        };
        Ok(Statement::Call(Arc::new(body), call))
    }

    fn with_signature(
        &mut self,
        end: &str,
        signed: bool,
    ) -> Result<(Signature, Vec<Statement>, super::parser::Reads)> {
        self.macros.push(Default::default());
        let parameters = if signed { self.signature()? } else { Vec::new() };
        let body = self.function(end)?;
        let reads = self.macros.pop().unwrap_or_default();
        Ok((parameters, body, reads))
    }

    fn signature(&mut self) -> Result<Signature> {
        let mut parameters: Signature = Vec::new();
        while !self.is_operator(")") {
            let name = self.assigned()?;
            if parameters.len() > 255 || parameters.iter().any(|(n, _)| *n == name) {
                return self.fail("a parameter stands twice, or there are more than 255");
            }
            let default = if self.take_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("non-default argument follows default argument");
            }
            parameters.push((name, default));
            if !self.is_operator(")") {
                self.expect_operator(",")?;
            }
        }
        self.advance();
        Ok(parameters)
    }

    /// Parses a name on the left side of an assignment.
    fn assigned(&mut self) -> Result<Name> {
        let name = self.expect_name()?;
        if CONSTANTS.contains(&&*name) {
            return self.fail(format!("can't assign to '{name}'"));
        }
        Ok(self.number(&name))
    }

    /// Parses the left side of an assignment: a name, a tuple, or (if `attributes` is true) an attribute of a
    /// namespace.
    fn target(&mut self, attributes: bool) -> Result<Target> {
        self.deeper(|parser| {
            let at = parser.at();
            let mut targets = Vec::new();
            let mut is_tuple = false;
            loop {
                let ends = parser.is_word("in")
                    || parser.is_operator(")")
                    || parser.is_operator("=")
                    || *parser.token() == Token::BlockEnd;
                if ends && !targets.is_empty() {
                    break;
                }
                if parser.take_operator("(") {
                    targets.push(parser.target(attributes)?);
                    parser.expect_operator(")")?;
                } else {
                    if !matches!(parser.token(), Token::Name(_)) {
                        return parser.fail(format!("can't assign to {}", describe(parser.token())));
                    }
                    let place = parser.at();
                    let name = parser.assigned()?;
                    if attributes && parser.take_operator(".") {
                        targets.push(Target::Attribute(name, parser.expect_name()?, place));
                    } else {
                        targets.push(Target::Name(name));
                    }
                }
                if !parser.take_operator(",") {
                    break;
                }
                is_tuple = true;
            }
            match targets.pop() {
                Some(target) if !is_tuple => Ok(target),
                last => {
                    targets.extend(last);
                    Ok(Target::Tuple(targets, at))
                }
            }
        })
    }
}
