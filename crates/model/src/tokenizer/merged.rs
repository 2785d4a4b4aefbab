//! llama.cpp's tokenizer for BPE with merges (GGUF `gpt2`, `gemma4` and `whitespace`). The pre-tokenizer splits the text
//! into words and determines how they are spelled. Source: llama.cpp's `src/llama-vocab.cpp`.

use super::added::{AddedTokens, Open};
use super::byte_pair::{BytePair, Remembered, Settings};
use super::cut::{Cut, cut_all};
use super::pre_tokenizer::{PreTokenizer, Symbols};
use super::{Fragment, TokenizerError, fragments, sentencepiece};
use std::borrow::Cow;

/// The tokenizer.
pub(super) struct Merged {
    model: BytePair,
    cuts: Vec<Cut>,
    symbols: Symbols,
    added: AddedTokens,
}

impl Merged {
    /// Makes the tokenizer. `vocabulary` has the text and the id of every token.
    ///
    /// # Errors
    /// An error if merges name tokens that the vocabulary lacks.
    pub fn new(
        vocabulary: Vec<(String, u32)>,
        merges: Vec<(String, String)>,
        pre_tokenizer: PreTokenizer,
        ignore_merges: bool,
        added: AddedTokens,
    ) -> Result<Self, TokenizerError> {
        let symbols = pre_tokenizer.symbols();
        let of_bytes = symbols == Symbols::Bytes;
        let model = BytePair::new(Settings {
            vocabulary,
            merges,
            first_counts: true,
            of_bytes,
            ignore_merges,
            byte_fallback: !of_bytes,
            unknown: None,
            fuse_unknown: false,
            prefix: String::new(),
            suffix: String::new(),
        })?;
        Ok(Self { model, cuts: pre_tokenizer.cuts()?, symbols, added })
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    ///
    /// # Errors
    /// An error if too many added tokens overlap.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut remembered = Remembered::default();
        fragments(text, self.added.find(text, open)?, &mut |fragment| {
            let text = match (fragment, self.symbols) {
                (Fragment::Token(id), _) => {
                    ids.push(id);
                    return Ok(());
                }
                (Fragment::Text(text), Symbols::Marks { .. }) => {
                    Cow::Owned(text.replace(' ', sentencepiece::SPACE))
                }
                (Fragment::Text(text), _) => Cow::Borrowed(text),
            };
            cut_all(&self.cuts, &text, &mut |word| {
                match self.symbols {
                    Symbols::Marks { lines: true } if word.bytes().all(|b| b == b'\n') => {
                        if let Some(id) = self.model.id(word) {
                            ids.push(id);
                            return Ok(());
                        }
                    }
                    Symbols::Plain { drops: true } if word.starts_with(char::is_whitespace) => return Ok(()),
                    _ => {}
                }
                self.model.encode(word, &mut remembered, ids);
                Ok(())
            })
        })
    }
}
