//! Converts a stream of tokens to text. Only complete characters are returned, because a character such as a Hangul
//! syllable or an emoji may span several tokens.

use super::Tokenizer;
use std::sync::Arc;

/// Joins the bytes of tokens and returns complete characters. It shares the ownership of its tokenizer, so it has no
/// lifetime parameter.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// Bytes of a character that is not complete yet.
    held: Vec<u8>,
    /// True if a space at the beginning of the text is removed.
    strip_space: bool,
    /// True if control tokens give their own text.
    control_tokens: bool,
}

impl TextStream {
    /// Makes a stream for an answer that follows other text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, held: Vec::new(), strip_space: false, control_tokens: false }
    }

    /// Makes a stream for a text from its beginning. The space that the tokenizer adds before a text is removed.
    pub fn at_start(tokenizer: Arc<Tokenizer>) -> Self {
        let strip_space = tokenizer.adds_space();
        Self { tokenizer, held: Vec::new(), strip_space, control_tokens: false }
    }

    /// With `true`, control tokens give their own text. The default is `false`.
    #[must_use]
    pub fn with_control_tokens(self, control_tokens: bool) -> Self {
        Self { control_tokens, ..self }
    }

    /// Takes one token and returns the characters that are complete now.
    pub fn push(&mut self, id: u32) -> String {
        self.held.extend(self.tokenizer.bytes(id, self.control_tokens));
        if self.strip_space && !self.held.is_empty() {
            self.strip_space = false;
            if self.held[0] == b' ' {
                self.held.remove(0);
            }
        }
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.held.clear();
                    return text;
                }
                Err(e) => {
                    let whole = e.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.held[..whole]));
                    // The bytes of an incomplete character are kept for later. Bytes that can never become a character
                    // are replaced by U+FFFD.
                    let bad = e.error_len();
                    self.held.drain(..whole + bad.unwrap_or(0));
                    if bad.is_none() {
                        return text;
                    }
                    text.push('\u{fffd}');
                }
            }
        }
    }

    /// Returns the remaining bytes as text. Incomplete characters become U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}
