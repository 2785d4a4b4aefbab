//! Text from a stream of tokens. Only whole characters are given out: Hangul and emoji that span several tokens stay unbroken.

use super::Tokenizer;
use std::sync::Arc;

/// Joins the bytes of tokens and gives out whole characters. It owns its tokenizer, so that it can live as long as an answer.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    held: Vec<u8>,
    strip_space: bool,
}

impl TextStream {
    /// A stream at the beginning of an answer that follows other text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, held: Vec::new(), strip_space: false }
    }

    /// A stream at the beginning of a text: SentencePiece's own first space is dropped.
    pub fn at_start(tokenizer: Arc<Tokenizer>) -> Self {
        let strip_space = tokenizer.adds_space();
        Self { tokenizer, held: Vec::new(), strip_space }
    }

    /// Takes one token and returns the characters that are complete now.
    pub fn push(&mut self, id: u32) -> String {
        self.held.extend(self.tokenizer.bytes(id, false));
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
                    // An incomplete character waits; bytes that can never become one are replaced.
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

    /// The bytes that are still held back, with broken characters replaced.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}
