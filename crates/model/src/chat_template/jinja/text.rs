//! Text that stores the origin of each character: the template or a user.
//!
//! Invariant: every operation on strings copies a character together with its origin. Control tokens are parsed only in
//! characters of the template.

use super::limits::{Budget, Result};
use std::ops::Range;
use std::rc::Rc;

/// Runs of characters with the same origin: the byte offset of the end of each run, and true if a user wrote it.
type Runs = Vec<(usize, bool)>;

#[derive(Clone, Debug)]
enum Origin {
    Template,
    User,
    Mixed(Rc<Runs>),
}

/// An immutable string that stores the origin of each character.
#[derive(Clone, Debug)]
pub struct Text {
    text: Rc<str>,
    origin: Origin,
    markup: bool,
}

impl Text {
    /// Creates a string that the template wrote.
    pub fn own(text: &str) -> Self {
        Self { text: text.into(), origin: Origin::Template, markup: false }
    }

    /// Creates a string that a user wrote.
    pub fn user(text: &str) -> Self {
        Self { text: text.into(), origin: Origin::User, markup: false }
    }

    /// Returns true if the text is `Markup` (HTML). Text that is joined to `Markup` is escaped for HTML.
    pub fn is_markup(&self) -> bool {
        self.markup
    }

    /// Returns the same text, as `Markup` if `markup` is true and as plain text otherwise.
    pub fn marked(self, markup: bool) -> Self {
        Self { markup, ..self }
    }

    /// Returns the text as `Markup`, with the special characters of HTML escaped. Returns `Markup` unchanged.
    pub fn escaped(&self, budget: &Budget) -> Result<Self> {
        if self.markup {
            return Ok(self.clone());
        }
        let mut builder = Builder::default();
        for (piece, user) in self.pieces(0..self.text.len()) {
            for part in piece.split_inclusive(['&', '<', '>', '\'', '"']) {
                let escape = match part.chars().next_back() {
                    Some('&') => "&amp;",
                    Some('<') => "&lt;",
                    Some('>') => "&gt;",
                    Some('\'') => "&#39;",
                    Some('"') => "&#34;",
                    _ => "",
                };
                let kept = if escape.is_empty() { part } else { &part[..part.len() - 1] };
                builder.push(budget, kept, user)?;
                builder.push(budget, escape, user)?;
            }
        }
        Ok(builder.finish().marked(true))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn shared(&self) -> Rc<str> {
        self.text.clone()
    }

    /// Returns the length in characters (code points), as Python counts it.
    pub fn chars(&self) -> usize {
        self.text.chars().count()
    }

    /// Returns the pieces of a byte range that have one origin, each with true if a user wrote it.
    pub fn pieces(&self, range: Range<usize>) -> Pieces<'_> {
        let next = match &self.origin {
            Origin::Mixed(runs) => runs.partition_point(|(end, _)| *end <= range.start),
            _ => 0,
        };
        Pieces { text: self, range, next }
    }

    /// Returns the part of the text in a byte range.
    pub fn slice(&self, budget: &Budget, range: Range<usize>) -> Result<Self> {
        if range.start == 0 && range.end == self.text.len() {
            return Ok(self.clone());
        }
        let mut builder = Builder::default();
        builder.push_range(budget, self, range)?;
        Ok(builder.finish().marked(self.markup))
    }

    /// Applies `change` to each piece of one origin, for example to change the case.
    pub fn map(&self, budget: &Budget, change: impl Fn(&str) -> String) -> Result<Self> {
        let mut builder = Builder::default();
        for (piece, user) in self.pieces(0..self.text.len()) {
            budget.allocate(3 * piece.len())?;
            builder.push(budget, &change(piece), user)?;
        }
        Ok(builder.finish().marked(self.markup))
    }
}

/// An iterator over the pieces that have one origin.
pub struct Pieces<'a> {
    text: &'a Text,
    range: Range<usize>,
    next: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = (&'a str, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let (end, user) = match &self.text.origin {
            Origin::Template => (self.range.end, false),
            Origin::User => (self.range.end, true),
            Origin::Mixed(runs) => runs.get(self.next).copied().unwrap_or((self.range.end, false)),
        };
        self.next += 1;
        let end = end.min(self.range.end);
        let piece = &self.text.text[self.range.start..end];
        self.range.start = end;
        Some((piece, user))
    }
}

/// Builds a text from pieces.
#[derive(Default)]
pub struct Builder {
    text: String,
    runs: Runs,
}

impl Builder {
    /// Appends characters of one origin. `user` is true if a user wrote them.
    pub fn push(&mut self, budget: &Budget, text: &str, user: bool) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        budget.allocate(text.len())?;
        self.text.push_str(text);
        match self.runs.last_mut() {
            Some((end, last)) if *last == user => *end = self.text.len(),
            _ => {
                budget.allocate(size_of::<(usize, bool)>())?;
                self.runs.push((self.text.len(), user));
            }
        }
        Ok(())
    }

    /// Appends characters that the template wrote.
    pub fn own(&mut self, budget: &Budget, text: &str) -> Result<()> {
        self.push(budget, text, false)
    }

    /// Appends a text with its origins.
    pub fn push_text(&mut self, budget: &Budget, text: &Text) -> Result<()> {
        self.push_range(budget, text, 0..text.as_str().len())
    }

    /// Appends the part of a text in a byte range.
    pub fn push_range(&mut self, budget: &Budget, text: &Text, range: Range<usize>) -> Result<()> {
        for (piece, user) in text.pieces(range) {
            self.push(budget, piece, user)?;
        }
        Ok(())
    }

    /// Returns the number of bytes up to now.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Returns the finished text.
    pub fn finish(self) -> Text {
        let origin = match self.runs.as_slice() {
            [] | [(_, false)] => Origin::Template,
            [(_, true)] => Origin::User,
            _ => Origin::Mixed(Rc::new(self.runs)),
        };
        Text { text: self.text.into(), origin, markup: false }
    }

    /// Returns the characters, and for each run of characters with the same origin: the byte offset of its end, and
    /// true if a user wrote the run.
    pub fn into_parts(self) -> (String, Vec<(usize, bool)>) {
        (self.text, self.runs)
    }
}
