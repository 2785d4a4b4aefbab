//! The text of an answer: it grows token by token, and ends before the first stop text.

use crate::{Finish, TextStream, Tokenizer};
use std::sync::Arc;

/// The text of an answer. A part of it is final as soon as its characters are complete and no stop text can begin in
/// it.
///
/// ```
/// use kvant_model::{AnswerText, Finish, Special};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo");
/// # let checkpoint = kvant_io::open(path.as_ref(), &kvant_io::Limits::default())?;
/// # let tokenizer = kvant_model::Tokenizer::from_meta(checkpoint.meta())?.unwrap();
/// let tokenizer = std::sync::Arc::new(tokenizer);
/// let mut answer = AnswerText::new(&tokenizer, &["upon a".to_owned()]);
/// for token in tokenizer.encode(" Once upon a time", Special { add: false, parse: false })? {
///     if answer.push(token) {
///         break;
///     }
/// }
/// answer.end(Finish::Stop);
/// assert_eq!(answer.take().trim(), "Once");
/// # Ok(())
/// # }
/// ```
pub struct AnswerText {
    stream: TextStream,
    text: String,
    /// The number of bytes that [`AnswerText::take`] has returned.
    taken: usize,
    /// The number of bytes that are final.
    end: usize,
    stop: Vec<String>,
    /// The index of the stop text that ended the answer.
    stopped: Option<usize>,
}

impl AnswerText {
    /// Creates an empty text that ends before the first of the texts in `stop`. Empty stop texts have no effect.
    pub fn new(tokenizer: &Arc<Tokenizer>, stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        let stream = TextStream::new(tokenizer.clone());
        Self { stream, text: String::new(), taken: 0, end: 0, stop, stopped: None }
    }

    /// With `true`, the text contains the texts of control tokens. The default is `false`.
    #[must_use]
    pub fn with_control_tokens(self, control_tokens: bool) -> Self {
        Self { stream: self.stream.with_control_tokens(control_tokens), ..self }
    }

    /// Appends the text of a token. Returns true if a stop text ended the answer; no token may follow.
    pub fn push(&mut self, token: u32) -> bool {
        let piece = self.stream.push(token);
        self.append(&piece);
        self.stopped.is_some()
    }

    /// Returns the stop text that ended the answer. If several begin at the same place, the first of them counts.
    pub fn stopped_by(&self) -> Option<&str> {
        self.stopped.map(|index| self.stop[index].as_str())
    }

    /// Ends the answer. After [`Finish::Length`], it appends the characters that the last token left incomplete.
    pub fn end(&mut self, finish: Finish) {
        if finish == Finish::Length {
            let piece = self.stream.finish();
            self.append(&piece);
        }
        self.end = self.text.len();
    }

    /// Appends a text, and cuts the answer before a stop text.
    fn append(&mut self, piece: &str) {
        // Earlier calls found no stop text, so one can only begin within its own length before the new piece.
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(piece);
        let found = self.stop.iter().enumerate();
        let found = found.filter_map(|(index, stop)| Some((self.text[from..].find(stop)?, index))).min();
        match found {
            Some((at, index)) => {
                self.stopped = Some(index);
                self.text.truncate(from + at);
                self.end = self.text.len();
            }
            None => self.end = self.text.len() - held_back(&self.text, &self.stop),
        }
    }

    /// Returns the final text that was not returned before.
    pub fn take(&mut self) -> &str {
        let from = self.taken;
        self.taken = self.end.max(from);
        &self.text[from..self.taken]
    }

    /// Returns the whole text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the whole text without a copy.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Number of bytes at the end of `text` that may be the beginning of a stop text.
fn held_back(text: &str, stop: &[String]) -> usize {
    let longest = |s: &String| {
        (1..s.len()).rev().find(|&n| s.is_char_boundary(n) && text.ends_with(&s[..n])).unwrap_or(0)
    };
    stop.iter().map(longest).max().unwrap_or(0)
}
