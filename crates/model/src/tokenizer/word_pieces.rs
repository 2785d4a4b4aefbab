//! llama.cpp's tokenizer for WordPiece (GGUF `bert`). It removes control characters, makes white space, punctuation and
//! Chinese characters borders of words, and takes the longest token at the beginning of a word and of the rest of a word.
//! A token at the beginning of a word begins with `▁`.
//!
//! Source: llama.cpp's `src/llama-vocab.cpp`. It differs from `BertNormalizer` of the `tokenizers` crate: an accent is
//! removed by taking the first character of the canonical decomposition, which leaves one jamo of a Hangul syllable.

use super::added::{AddedTokens, Open};
use super::byte_pair::{Remembered, remember};
use super::classes::{CONTROL, Classes, MARK, PUNCTUATION, SYMBOL};
use super::prefixes::Prefixes;
use super::{Fragment, Map, TokenizerError, fragments, sentencepiece};

/// The tokenizer.
pub(super) struct WordPieces {
    tokens: Prefixes,
    /// Ids in the order of `tokens`.
    ids: Vec<u32>,
    unknown: Option<u32>,
    lowercase: bool,
    strip_accents: bool,
    added: AddedTokens,
}

impl WordPieces {
    /// Makes the tokenizer from the text and the id of every token.
    pub fn new(
        ids: Map<String, u32>,
        unknown: Option<u32>,
        lowercase: bool,
        strip_accents: bool,
        added: AddedTokens,
    ) -> Self {
        let mut sorted: Vec<(String, u32)> = ids.into_iter().filter(|(text, _)| !text.is_empty()).collect();
        sorted.sort_unstable();
        let (texts, ids): (Vec<String>, _) = sorted.into_iter().unzip();
        Self { tokens: Prefixes::new(&texts), ids, unknown, lowercase, strip_accents, added }
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    ///
    /// # Errors
    /// An error if too many added tokens overlap.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut remembered = Remembered::default();
        fragments(text, self.added.find(text, open)?, &mut |fragment| {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => self.words(text, &mut |word| self.word(word, &mut remembered, ids)),
            }
            Ok(())
        })
    }

    /// Calls `take` with every word of a text. A word begins with `▁`.
    fn words(&self, text: &str, take: &mut dyn FnMut(&str)) {
        let classes = Classes::get();
        let empty = sentencepiece::SPACE.len();
        let mut word = String::from(sentencepiece::SPACE);
        let mut end = |word: &mut String| {
            if word.len() > empty {
                take(word);
                word.truncate(empty);
            }
        };
        for c in text.chars() {
            let c = if self.strip_accents && !c.is_ascii() { first_of_decomposed(c) } else { c };
            if c.is_whitespace() {
                end(&mut word);
                continue;
            }
            let class = classes.of(c);
            if matches!(c, '\0' | '\u{fffd}')
                || class & CONTROL != 0
                || self.strip_accents && class & MARK != 0
            {
                continue;
            }
            let alone = class & PUNCTUATION != 0 || c < '\u{7f}' && class & SYMBOL != 0 || is_chinese(c);
            if alone {
                end(&mut word);
            }
            word.push(if self.lowercase { c.to_lowercase().next().unwrap_or(c) } else { c });
            if alone {
                end(&mut word);
            }
        }
        end(&mut word);
    }

    /// Appends the ids of one word.
    fn word(&self, word: &str, remembered: &mut Remembered, ids: &mut Vec<u32>) {
        if let Some(known) = remembered.get(word) {
            return ids.extend_from_slice(known);
        }
        let before = ids.len();
        let mut rest = word.as_bytes();
        while !rest.is_empty() {
            let mut longest = None;
            self.tokens.find(rest, |length, at| longest = Some((length, at)));
            let Some((length, at)) = longest else {
                // A word with a part that the vocabulary lacks is unknown as a whole.
                ids.truncate(before);
                ids.extend(self.unknown);
                break;
            };
            ids.push(self.ids[at]);
            rest = &rest[length..];
        }
        remember(remembered, word, &ids[before..]);
    }
}

/// The first character of the canonical decomposition.
fn first_of_decomposed(c: char) -> char {
    let mut first = None;
    unicode_normalization_alignments::char::decompose_canonical(c, |part| {
        first.get_or_insert(part);
    });
    first.unwrap_or(c)
}

/// True for the blocks of characters that are words of their own.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b73f
            | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}
