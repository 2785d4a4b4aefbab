//! llama.cpp's tokenizer for SentencePiece BPE (GGUF `llama`): spaces are spelled `▁`, and byte tokens spell the
//! characters that the vocabulary lacks. Source: llama.cpp's `src/llama-vocab.cpp`.

use super::added::{AddedTokens, Open};
use super::sentencepiece::{self, SPACE};
use super::{Fragment, Map, TokenizerError, fragments};

/// The tokenizer.
pub(super) struct Scored {
    model: sentencepiece::Scored,
    /// Ids of the byte tokens `<0x00>` to `<0xFF>`; `None` for a byte token that the vocabulary lacks.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// True if a space is added before the text, and before the text after each added token.
    add_space_prefix: bool,
    added: AddedTokens,
}

impl Scored {
    /// Makes the tokenizer. `scores` are indexed by id.
    pub fn new(
        ids: Map<String, u32>,
        scores: Vec<f32>,
        unknown: Option<u32>,
        add_space_prefix: bool,
        added: AddedTokens,
    ) -> Self {
        let bytes = (0..256).map(|b| ids.get(&format!("<0x{b:02X}>")).copied()).collect();
        let model = sentencepiece::Scored::new(ids, scores, Vec::new());
        Self { model, bytes, unknown, add_space_prefix, added }
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    ///
    /// # Errors
    /// An error if too many added tokens overlap.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut remembered = sentencepiece::Remembered::default();
        let mut after_token = true;
        fragments(text, self.added.find(text, open)?, &mut |fragment| {
            match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    after_token = true;
                }
                Fragment::Text(text) => {
                    let prefix = if after_token && self.add_space_prefix { SPACE } else { "" };
                    let text = format!("{prefix}{}", text.replace(' ', SPACE));
                    self.model.encode(&text, &mut remembered, &mut |part, id| match id {
                        Some(id) => ids.push(id),
                        None => {
                            ids.extend(
                                part.bytes().filter_map(|b| self.bytes[usize::from(b)].or(self.unknown)),
                            );
                        }
                    });
                    after_token = false;
                }
            }
            Ok(())
        })
    }
}
