//! Splits the source into tokens, like `jinja2/lexer.py` with `trim_blocks` and `lstrip_blocks`.

use super::limits::{Error, Result};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// Text between tags.
    Data(Arc<str>),
    /// `{{`.
    VariableBegin,
    /// `}}`.
    VariableEnd,
    /// `{%`.
    BlockBegin,
    /// `%}`.
    BlockEnd,
    /// An identifier or a keyword.
    Name(Arc<str>),
    /// A string literal, with its escapes replaced.
    String(Arc<str>),
    Integer(i128),
    Float(f64),
    /// `+`, `(`, `==` …
    Operator(&'static str),
    /// The end of the source.
    End,
}

/// All operators. Operators of two characters come first, so that the longest operator matches.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// Returns true for white space, as Python's `str.isspace` and `\s` define it.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Returns the source with `\n` as its only line end, and without one line end at the end of the source.
pub fn normalize(source: &str) -> String {
    let mut normal = source.replace("\r\n", "\n").replace('\r', "\n");
    if normal.ends_with('\n') {
        normal.pop();
    }
    normal
}

/// Splits a normalized source into tokens, each with its byte offset.
pub fn tokens(source: &str) -> Result<Vec<(u32, Token)>> {
    let mut lexer = Lexer { source, at: 0, line_starts: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.text()?;
    }
    lexer.tokens.push((source.len() as u32, Token::End));
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    /// True if a line starts at `at`.
    line_starts: bool,
    tokens: Vec<(u32, Token)>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((self.at as u32, token));
    }

    fn spaces(&mut self) {
        self.at += self.rest().find(|c| !is_space(c)).unwrap_or(self.rest().len());
    }

    /// Takes the end of a tag with its sign. Returns false if the end is not next. With the sign `-`, also takes all
    /// white space after the tag. With `trim` and without a sign, also takes one line end after the tag.
    fn take_end(&mut self, end: &str, trim: bool) -> bool {
        let rest = self.rest();
        let before = self.at;
        if let Some(after) = rest.strip_prefix('-').and_then(|r| r.strip_prefix(end)) {
            self.at = self.source.len() - after.len();
            self.spaces();
        } else if let Some(after) = rest.strip_prefix('+').and_then(|r| r.strip_prefix(end)).filter(|_| trim)
        {
            self.at = self.source.len() - after.len();
        } else if let Some(after) = rest.strip_prefix(end) {
            self.at = self.source.len() - after.len();
            if trim && after.starts_with('\n') {
                self.at += 1;
            }
        } else {
            return false;
        }
        self.line_starts = self.source[before..self.at].ends_with('\n');
        true
    }

    /// Returns the text before a tag, without the white space that the tag removes. The sign `-` removes all white
    /// space at the end of the text. A block or comment without a sign removes the white space between the start of its
    /// line and the tag.
    fn stripped(&self, text: &'a str, sign: Option<char>, variable: bool) -> &'a str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            Some('+') => text,
            _ if variable => text,
            _ => {
                let line = text.rfind('\n').map_or(0, |i| i + 1);
                let blank = line < text.len() && text[line..].chars().all(is_space);
                if blank && (line > 0 || self.line_starts) { &text[..line] } else { text }
            }
        }
    }

    fn data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Data(text.into()));
        }
    }

    /// Reads the text up to the next tag, and the tag.
    fn text(&mut self) -> Result<()> {
        let rest = self.rest();
        let tag = rest
            .match_indices('{')
            .find(|(i, _)| matches!(rest.as_bytes().get(i + 1), Some(b'{' | b'%' | b'#')));
        let Some((start, _)) = tag else {
            self.data(rest);
            self.at = self.source.len();
            return Ok(());
        };
        let kind = rest.as_bytes()[start + 1];
        let sign = rest[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
        let text = self.stripped(&rest[..start], sign, kind == b'{');
        self.data(text);
        let begin = self.at + start;
        self.at = begin + 2 + usize::from(sign.is_some());
        self.line_starts = false;
        match kind {
            b'#' => self.comment(begin),
            b'{' => self.tag("}}", Token::VariableBegin, Token::VariableEnd, begin),
            _ => {
                if self.raw_begins() {
                    self.raw(begin)
                } else {
                    self.tag("%}", Token::BlockBegin, Token::BlockEnd, begin)
                }
            }
        }
    }

    fn comment(&mut self, begin: usize) -> Result<()> {
        if self.rest().is_empty() {
            return Ok(());
        }
        let Some(end) = self.rest().find("#}") else {
            return Err(Error::syntax("Missing end of comment tag", begin));
        };
        let signed = end > 0 && matches!(self.rest().as_bytes()[end - 1], b'-' | b'+');
        self.at += end - usize::from(signed);
        self.take_end("#}", true);
        Ok(())
    }

    /// Takes `raw %}`. Returns false if it is not next.
    fn raw_begins(&mut self) -> bool {
        let before = (self.at, self.line_starts);
        self.spaces();
        if self.rest().starts_with("raw") {
            self.at += 3;
            self.spaces();
            if self.take_end("%}", false) {
                return true;
            }
        }
        (self.at, self.line_starts) = before;
        false
    }

    fn raw(&mut self, begin: usize) -> Result<()> {
        let start = self.at;
        if self.rest().is_empty() {
            return Ok(());
        }
        let mut from = start;
        while let Some(found) = self.source[from..].find("{%") {
            let tag = from + found;
            self.at = tag + 2;
            let sign = self.rest().chars().next().filter(|c| matches!(c, '-' | '+'));
            self.at += usize::from(sign.is_some());
            self.spaces();
            if self.rest().starts_with("endraw") {
                self.at += 6;
                self.spaces();
                let starts = self.line_starts;
                if self.take_end("%}", true) {
                    let ends = std::mem::replace(&mut self.line_starts, starts);
                    let text = self.stripped(&self.source[start..tag], sign, false);
                    self.line_starts = ends;
                    self.data(text);
                    return Ok(());
                }
            }
            from = tag + 2;
        }
        Err(Error::syntax("Missing end of raw directive", begin))
    }

    /// Reads the tokens of a tag up to its end.
    fn tag(&mut self, end: &str, first: Token, last: Token, begin: usize) -> Result<()> {
        self.tokens.push((begin as u32, first));
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let here = self.at;
            if open.is_empty() && self.take_end(end, end == "%}") {
                self.tokens.push((here as u32, last));
                return Ok(());
            }
            let Some(c) = self.rest().chars().next() else {
                // The parser reports the missing token.
                return Ok(());
            };
            if is_space(c) {
                self.spaces();
            } else if c.is_ascii_digit() {
                let token = self.number()?;
                self.tokens.push((here as u32, token));
            } else if c == '_' || c.is_alphanumeric() {
                let rest = self.rest();
                let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].into()));
                self.at += length;
            } else if c == '\'' || c == '"' {
                let token = self.string(c)?;
                self.tokens.push((here as u32, token));
            } else if let Some(operator) = OPERATORS.iter().find(|o| self.rest().starts_with(**o)) {
                match *operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => match open.pop() {
                        Some(expected) if expected == *operator => {}
                        Some(expected) => {
                            return Err(Error::syntax(
                                format!("unexpected '{operator}', expected '{expected}'"),
                                here,
                            ));
                        }
                        None => return Err(Error::syntax(format!("unexpected '{operator}'"), here)),
                    },
                    _ => {}
                }
                self.push(Token::Operator(operator));
                self.at += operator.len();
            } else {
                return Err(Error::syntax(format!("unexpected char {c:?}"), here));
            }
        }
    }

    fn number(&mut self) -> Result<Token> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let here = self.at;
        let digits = |mut i: usize, valid: fn(&u8) -> bool| {
            while bytes.get(i).is_some_and(valid)
                || (bytes.get(i) == Some(&b'_') && i > 0 && bytes.get(i + 1).is_some_and(valid))
            {
                i += 1;
            }
            i
        };
        let whole = digits(0, u8::is_ascii_digit);
        let mut end = whole;
        let after_dot = self.source[..self.at].ends_with('.');
        if !after_dot {
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                end = digits(end + 1, u8::is_ascii_digit);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let signed = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if bytes.get(signed).is_some_and(u8::is_ascii_digit) {
                    end = digits(signed, u8::is_ascii_digit);
                }
            }
        }
        if end > whole {
            self.at += end;
            let text = rest[..end].replace('_', "");
            return text.parse().map(Token::Float).map_err(|_| Error::syntax("a float that is none", here));
        }
        let (radix, valid): (u32, fn(&u8) -> bool) = match bytes.get(..2) {
            Some(b"0x" | b"0X") => (16, u8::is_ascii_hexdigit),
            Some(b"0o" | b"0O") => (8, |b| matches!(b, b'0'..=b'7')),
            Some(b"0b" | b"0B") => (2, |b| matches!(b, b'0' | b'1')),
            _ => (10, u8::is_ascii_digit),
        };
        let (start, end) = match radix {
            10 if bytes[0] == b'0' => (0, digits(0, |b| *b == b'0')),
            10 => (0, whole),
            _ => match digits(2, valid) {
                2 => (0, 1),
                end => (2, end),
            },
        };
        self.at += end;
        let text = rest[start..end].replace('_', "");
        let value = i128::from_str_radix(&text, if start == 0 { 10 } else { radix });
        value.map(Token::Integer).map_err(|_| Error::syntax("an integer of more than 127 bits", here))
    }

    fn string(&mut self, quote: char) -> Result<Token> {
        let rest = self.rest();
        let mut end = 1;
        loop {
            match rest.as_bytes().get(end) {
                Some(b'\\') => end += 2,
                Some(b) if *b == quote as u8 => break,
                Some(_) => end += 1,
                None => return Err(Error::syntax(format!("unexpected char {quote:?}"), self.at)),
            }
        }
        let text = unescape(&rest[1..end], self.at)?;
        self.at += end + 1;
        Ok(Token::String(text.into()))
    }
}

/// Replaces the escapes of Python's `unicode-escape`. Unknown escapes stay unchanged.
fn unescape(text: &str, at: usize) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((_, escape)) = chars.next() else { break };
        let simple = match escape {
            '\n' => continue,
            '\\' | '\'' | '"' => escape,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' | 'u' | 'U' | '0'..='7' => {
                let (skip, most, radix) = match escape {
                    'x' => (2, 2, 16),
                    'u' => (2, 4, 16),
                    'U' => (2, 8, 16),
                    _ => (1, 3, 8),
                };
                let digits: String =
                    text[i + skip..].chars().take(most).take_while(|d| d.is_digit(radix)).collect();
                let value = u32::from_str_radix(&digits, radix).ok().and_then(char::from_u32);
                match value {
                    Some(value) if radix == 8 || digits.len() == most => {
                        for _ in 0..digits.len() - usize::from(radix == 8) {
                            chars.next();
                        }
                        value
                    }
                    _ => {
                        return Err(Error::syntax(
                            format!("the escape \\{escape}{digits} is no character"),
                            at,
                        ));
                    }
                }
            }
            'N' => return Err(Error::syntax("escapes by a character's name are not supported", at)),
            other => {
                out.push('\\');
                other
            }
        };
        out.push(simple);
    }
    Ok(out)
}
