//! Text that knows which of its characters a user wrote.
//!
//! Invariant: every operation on strings copies a character together with its origin. A control token counts only
//! where all of its characters are the template's own.

use super::limits::{Budget, Result};
use std::ops::Range;
use std::rc::Rc;

/// Runs of one origin: the end of each in bytes, and whether a user wrote it.
type Runs = Vec<(usize, bool)>;

#[derive(Clone, Debug)]
enum Origin {
    Template,
    User,
    Mixed(Rc<Runs>),
}

/// An immutable string, each character with its origin.
#[derive(Clone, Debug)]
pub struct Text {
    text: Rc<str>,
    origin: Origin,
    markup: bool,
}

impl Text {
    /// A string that the template wrote.
    pub fn own(text: &str) -> Self {
        Self { text: text.into(), origin: Origin::Template, markup: false }
    }

    /// A string that a user wrote.
    pub fn user(text: &str) -> Self {
        Self { text: text.into(), origin: Origin::User, markup: false }
    }

    /// Whether it is `Markup`: what is joined to it is escaped for HTML.
    pub fn is_markup(&self) -> bool {
        self.markup
    }

    /// The same text as `Markup`, or not.
    pub fn marked(self, markup: bool) -> Self {
        Self { markup, ..self }
    }

    /// The text with HTML's characters escaped; `Markup` stays as it is.
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

    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its characters, shared.
    pub fn shared(&self) -> Rc<str> {
        self.text.clone()
    }

    /// Length in characters, as Python counts.
    pub fn chars(&self) -> usize {
        self.text.chars().count()
    }

    /// The pieces of one origin inside a byte range.
    pub fn pieces(&self, range: Range<usize>) -> Pieces<'_> {
        let next = match &self.origin {
            Origin::Mixed(runs) => runs.partition_point(|(end, _)| *end <= range.start),
            _ => 0,
        };
        Pieces { text: self, range, next }
    }

    /// A part of it, by bytes.
    pub fn slice(&self, budget: &Budget, range: Range<usize>) -> Result<Self> {
        if range.start == 0 && range.end == self.text.len() {
            return Ok(self.clone());
        }
        let mut builder = Builder::default();
        builder.push_range(budget, self, range)?;
        Ok(builder.finish().marked(self.markup))
    }

    /// Each piece of one origin mapped by itself: for changes of case and the like.
    pub fn map(&self, budget: &Budget, change: impl Fn(&str) -> String) -> Result<Self> {
        let mut builder = Builder::default();
        for (piece, user) in self.pieces(0..self.text.len()) {
            budget.allocate(3 * piece.len())?;
            builder.push(budget, &change(piece), user)?;
        }
        Ok(builder.finish().marked(self.markup))
    }
}

/// Pieces of one origin.
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

/// A text in the making.
#[derive(Default)]
pub struct Builder {
    text: String,
    runs: Runs,
}

impl Builder {
    /// Appends characters of one origin.
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

    /// Appends what the template wrote.
    pub fn own(&mut self, budget: &Budget, text: &str) -> Result<()> {
        self.push(budget, text, false)
    }

    /// Appends a text.
    pub fn push_text(&mut self, budget: &Budget, text: &Text) -> Result<()> {
        self.push_range(budget, text, 0..text.as_str().len())
    }

    /// Appends a part of a text, by bytes.
    pub fn push_range(&mut self, budget: &Budget, text: &Text, range: Range<usize>) -> Result<()> {
        for (piece, user) in text.pieces(range) {
            self.push(budget, piece, user)?;
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// The text.
    pub fn finish(self) -> Text {
        let origin = match self.runs.as_slice() {
            [] | [(_, false)] => Origin::Template,
            [(_, true)] => Origin::User,
            _ => Origin::Mixed(Rc::new(self.runs)),
        };
        Text { text: self.text.into(), origin, markup: false }
    }

    /// The characters, and the end of each run with its origin.
    pub fn into_parts(self) -> (String, Vec<(usize, bool)>) {
        (self.text, self.runs)
    }
}
