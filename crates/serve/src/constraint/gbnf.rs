//! Translates GBNF, llama.cpp's grammar format, to Lark.
//!
//! GBNF describes characters. `llguidance` divides a text into lexemes first, and takes the longest one. Each terminal of
//! the translation is therefore one character, so that the longest lexeme is the only one.
//! Source: `grammars/README.md` of llama.cpp. Not here: terminals that are tokens (`<think>`, `<[1000]>`).

use super::error::GrammarError;
use std::collections::HashMap;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::CharIndices;

/// Largest depth of parentheses.
const DEPTH: usize = 64;
/// Largest number of repetitions.
const REPETITIONS: u32 = 10_000;

/// Translates a grammar.
///
/// # Errors
/// [`GrammarError::Gbnf`].
pub fn to_lark(text: &str) -> Result<String, GrammarError> {
    let mut parser =
        Parser { text, rest: text.char_indices().peekable(), names: HashMap::new(), defined: Vec::new() };
    let mut lark = String::new();
    loop {
        parser.skip(true);
        if parser.rest.peek().is_none() {
            break;
        }
        parser.rule(&mut lark)?;
    }
    let missing = parser.names.iter().find(|(_, number)| !parser.defined.contains(number));
    match (missing, parser.names.get("root")) {
        (Some((name, _)), _) => Err(parser.error(format!("the rule `{name}` is missing"))),
        (None, None) => Err(parser.error("the rule `root` is missing")),
        (None, Some(root)) => Ok(format!("start: r{root}\n{lark}")),
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    /// The numbers of rules by their names.
    names: HashMap<&'a str, usize>,
    defined: Vec<usize>,
}

impl<'a> Parser<'a> {
    fn error(&mut self, message: impl Into<String>) -> GrammarError {
        let at = self.offset();
        let line = self.text[..at].matches('\n').count() + 1;
        GrammarError::Gbnf { line, message: message.into() }
    }

    fn offset(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, c)| *c)
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next().map(|(_, c)| c)
    }

    /// Skips spaces and comments, and also line ends if `lines` is true.
    fn skip(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                '#' => while self.rest.next_if(|(_, c)| *c != '\n').is_some() {},
                ' ' | '\t' => drop(self.next()),
                '\n' | '\r' if lines => drop(self.next()),
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<usize, GrammarError> {
        let start = self.offset();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        while self.rest.next_if(|(_, c)| is_part(*c)).is_some() {}
        let end = self.offset();
        if start == end {
            return Err(self.error("expected the name of a rule"));
        }
        let next = self.names.len();
        Ok(*self.names.entry(&self.text[start..end]).or_insert(next))
    }

    fn expect(&mut self, text: &str) -> Result<(), GrammarError> {
        for c in text.chars() {
            if self.peek() != Some(c) {
                return Err(self.error(format!("expected `{text}`")));
            }
            self.next();
        }
        Ok(())
    }

    fn rule(&mut self, lark: &mut String) -> Result<(), GrammarError> {
        let number = self.name()?;
        if self.defined.contains(&number) {
            return Err(self.error("a second rule with this name"));
        }
        self.defined.push(number);
        self.skip(false);
        self.expect("::=")?;
        self.skip(true);
        // Writing to a text cannot fail.
        let _ = write!(lark, "r{number}: ");
        self.alternatives(lark, 0)?;
        lark.push('\n');
        match self.peek() {
            None | Some('\n' | '\r') => Ok(()),
            Some(c) => Err(self.error(format!("`{c}` is not expected here"))),
        }
    }

    fn alternatives(&mut self, lark: &mut String, depth: usize) -> Result<(), GrammarError> {
        if depth > DEPTH {
            return Err(self.error(format!("more than {DEPTH} parentheses in each other")));
        }
        loop {
            self.sequence(lark, depth)?;
            let before = self.rest.clone();
            // A line may begin with `|`.
            self.skip(true);
            if self.peek() != Some('|') {
                self.rest = before;
                return Ok(());
            }
            self.next();
            self.skip(true);
            lark.push_str(" | ");
        }
    }

    fn sequence(&mut self, lark: &mut String, depth: usize) -> Result<(), GrammarError> {
        let mut empty = true;
        loop {
            self.skip(depth > 0);
            let Some(c) = self.peek() else { break };
            match c {
                '"' => self.literal(lark)?,
                '[' => self.class(lark)?,
                '.' => {
                    self.next();
                    lark.push_str("/(?s:.)/ ");
                }
                '(' => {
                    self.next();
                    lark.push_str("( ");
                    self.skip(true);
                    self.alternatives(lark, depth + 1)?;
                    self.skip(true);
                    self.expect(")")?;
                    lark.push_str(") ");
                }
                c if c.is_ascii_alphanumeric() => {
                    let number = self.name()?;
                    let _ = write!(lark, "r{number} ");
                }
                _ => break,
            }
            empty = false;
            self.repetition(lark)?;
        }
        if empty {
            lark.push_str("\"\" ");
        }
        Ok(())
    }

    /// A literal is a group of its characters.
    fn literal(&mut self, lark: &mut String) -> Result<(), GrammarError> {
        self.next();
        lark.push_str("( ");
        let mut empty = true;
        loop {
            match self.peek() {
                None | Some('\n') => return Err(self.error("a literal without its end")),
                Some('"') => break,
                Some(_) => {}
            }
            let c = self.character()?;
            let _ = write!(lark, "/{}/ ", escaped(c));
            empty = false;
        }
        self.next();
        lark.push_str(if empty { "\"\" ) " } else { ") " });
        Ok(())
    }

    fn class(&mut self, lark: &mut String) -> Result<(), GrammarError> {
        self.next();
        lark.push_str("/[");
        if self.peek() == Some('^') {
            self.next();
            lark.push('^');
        }
        let mut empty = true;
        while self.peek() != Some(']') {
            let first = self.character()?;
            lark.push_str(&escaped(first));
            empty = false;
            let mut after = self.rest.clone();
            if self.peek() == Some('-') && after.nth(1).is_some_and(|(_, c)| c != ']') {
                self.next();
                let last = self.character()?;
                if last < first {
                    return Err(self.error("a range whose end is before its begin"));
                }
                let _ = write!(lark, "-{}", escaped(last));
            }
        }
        self.next();
        if empty {
            return Err(self.error("a class without characters"));
        }
        lark.push_str("]/ ");
        Ok(())
    }

    /// A character or an escape.
    fn character(&mut self) -> Result<char, GrammarError> {
        match self.next() {
            None => Err(self.error("the grammar ends too early")),
            Some('\\') => {
                let digits = match self.next() {
                    Some('n') => return Ok('\n'),
                    Some('r') => return Ok('\r'),
                    Some('t') => return Ok('\t'),
                    Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '.')) => return Ok(c),
                    Some('x') => 2,
                    Some('u') => 4,
                    Some('U') => 8,
                    _ => return Err(self.error("an unknown escape")),
                };
                let mut code = 0;
                for _ in 0..digits {
                    let digit = self.next().and_then(|c| c.to_digit(16));
                    let Some(digit) = digit else { return Err(self.error("expected hexadecimal digits")) };
                    code = code << 4 | digit;
                }
                char::from_u32(code).ok_or_else(|| self.error("no character has this number"))
            }
            Some(c) => Ok(c),
        }
    }

    fn repetition(&mut self, lark: &mut String) -> Result<(), GrammarError> {
        match self.peek() {
            Some(c @ ('*' | '+' | '?')) => {
                self.next();
                lark.pop();
                let _ = write!(lark, "{c} ");
            }
            Some('{') => {
                self.next();
                let least = self.number()?;
                let most = if self.peek() == Some(',') {
                    self.next();
                    self.number()?
                } else {
                    least
                };
                self.expect("}")?;
                let Some(least) = least else { return Err(self.error("expected a number")) };
                if most.is_some_and(|most| most < least) {
                    return Err(self.error("a range whose end is before its begin"));
                }
                lark.pop();
                let most = most.map(|most| most.to_string()).unwrap_or_default();
                let _ = write!(lark, "{{{least},{most}}} ");
            }
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Option<u32>, GrammarError> {
        let mut number: Option<u32> = None;
        while let Some((_, digit)) = self.rest.next_if(|(_, c)| c.is_ascii_digit()) {
            let digit = digit.to_digit(10).unwrap_or_default();
            number = Some(number.unwrap_or(0) * 10 + digit);
            if number > Some(REPETITIONS) {
                return Err(self.error(format!("more than {REPETITIONS} repetitions")));
            }
        }
        Ok(number)
    }
}

/// A character for a regular expression.
fn escaped(c: char) -> String {
    if c.is_ascii_alphanumeric() || (!c.is_ascii() && !c.is_control()) {
        c.to_string()
    } else {
        format!("\\u{{{:x}}}", c as u32)
    }
}
