//! Text from tokens as they come: only whole characters leave, so that Hangul and emoji that span tokens arrive
//! unbroken.

use super::Tokenizer;

/// Joins the bytes of tokens and lets whole characters out.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    held: Vec<u8>,
    strip_space: bool,
}

impl<'a> TextStream<'a> {
    /// A stream at the beginning of an answer that follows other text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, held: Vec::new(), strip_space: false }
    }

    /// A stream at the beginning of a text: SentencePiece's own first space is dropped.
    pub fn at_start(tokenizer: &'a Tokenizer) -> Self {
        let strip_space = tokenizer.adds_space();
        Self { tokenizer, held: Vec::new(), strip_space }
    }

    /// Takes one token, and returns the characters that are now whole.
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

    /// What is still held back, with broken characters replaced.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}
