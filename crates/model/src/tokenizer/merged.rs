//! llama.cpp's tokenizer for BPE with merges (GGUF `gpt2`, `gemma4` and `whitespace`). The pre-tokenizer splits the text
//! into words and determines how they are spelled. Source: llama.cpp's `src/llama-vocab.cpp`.

use super::added::{AddedTokens, Open};
use super::byte_pair::{BytePair, Remembered, Settings, remember};
use super::cut::{Cut, cut_all};
use super::pre_tokenizer::{PreTokenizer, Symbols};
use super::{Fragment, TokenizerError, fragments, sentencepiece};
use std::borrow::Cow;

/// The tokenizer.
pub(super) struct Merged {
    model: BytePair,
    /// The cuts of the rule: at most the first two, and the others.
    cuts: [Vec<Cut>; 2],
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
        let mut first = pre_tokenizer.cuts()?;
        let others = first.split_off(first.len().min(2));
        Ok(Self { model, cuts: [first, others], symbols, added })
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    ///
    /// # Errors
    /// An error if too many added tokens overlap.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        // Ids of words, and of parts between the two groups of cuts. In rules with many cuts, most parts are words.
        let (mut words, mut parts) = (Remembered::default(), Remembered::default());
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
            let [first, others] = &self.cuts;
            cut_all(first, &text, &mut |part| {
                if others.is_empty() {
                    self.word(part, &mut words, ids);
                    return Ok(());
                }
                if let Some(known) = parts.get(part) {
                    ids.extend_from_slice(known);
                    return Ok(());
                }
                let before = ids.len();
                cut_all(others, part, &mut |word| {
                    self.word(word, &mut words, ids);
                    Ok(())
                })?;
                remember(&mut parts, part, &ids[before..]);
                Ok(())
            })
        })
    }

    /// Appends the ids of one word to `ids`.
    fn word(&self, word: &str, words: &mut Remembered, ids: &mut Vec<u32>) {
        match self.symbols {
            Symbols::Marks { lines: true } if word.bytes().all(|b| b == b'\n') => match self.model.id(word) {
                Some(id) => ids.push(id),
                None => self.model.encode(word, words, ids),
            },
            Symbols::Plain { drops: true } if word.starts_with(char::is_whitespace) => {}
            _ => self.model.encode(word, words, ids),
        }
    }
}
