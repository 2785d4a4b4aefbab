//! WordPiece and WordLevel. WordPiece takes the longest token at the beginning of a word and repeats this for the rest
//! of the word. WordLevel takes only whole words. Source: the `tokenizers` crate's `models/wordpiece` and
//! `models/wordlevel`.

use super::TokenizerError;
use std::collections::HashMap;

/// A WordPiece or WordLevel model.
pub(super) struct WordPiece {
    ids: HashMap<String, u32>,
    unknown: u32,
    /// Text before every token of a word except the first token; `None` for WordLevel.
    prefix: Option<String>,
    /// Largest number of characters of a word. A longer word becomes the unknown token.
    longest: usize,
    /// Length of the longest token in bytes.
    reach: usize,
}

/// Largest allowed value of `longest`. The time for a word is quadratic in its number of characters.
const LONGEST_WORD: u64 = 10_000;

impl WordPiece {
    /// Makes a WordPiece model. `unknown` is the text of the unknown token.
    pub fn new(
        vocabulary: Vec<(String, u32)>,
        unknown: &str,
        prefix: String,
        longest: u64,
    ) -> Result<Self, TokenizerError> {
        if longest > LONGEST_WORD {
            let expected = format!("at most {LONGEST_WORD}");
            return Err(TokenizerError::key("model.max_input_chars_per_word", expected, longest.to_string()));
        }
        let whole = Self::whole(vocabulary, unknown)?;
        Ok(Self { prefix: Some(prefix), longest: longest as usize, ..whole })
    }

    /// Makes a WordLevel model. `unknown` is the text of the unknown token.
    pub fn whole(vocabulary: Vec<(String, u32)>, unknown: &str) -> Result<Self, TokenizerError> {
        let mut ids = HashMap::with_capacity(vocabulary.len());
        ids.extend(vocabulary);
        let unknown = ids.get(unknown).copied().ok_or_else(|| {
            TokenizerError::key("model.unk_token", "a token of the vocabulary", format!("{unknown:?}"))
        })?;
        let reach = ids.keys().map(String::len).max().unwrap_or(0);
        Ok(Self { ids, unknown, prefix: None, longest: usize::MAX, reach })
    }

    /// Appends the ids of one word to `ids`.
    pub fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let Some(prefix) = &self.prefix else {
            ids.push(self.ids.get(word).copied().unwrap_or(self.unknown));
            return Ok(());
        };
        let before = ids.len();
        if word.len() > self.longest && word.chars().count() > self.longest {
            ids.push(self.unknown);
            return Ok(());
        }
        let mut start = 0;
        let mut spelled = String::new();
        while start < word.len() {
            let mut end = word.len().min(start + self.reach);
            while !word.is_char_boundary(end) {
                end -= 1;
            }
            let found = loop {
                if end <= start {
                    break None;
                }
                spelled.clear();
                if start > 0 {
                    spelled.push_str(prefix);
                }
                spelled.push_str(&word[start..end]);
                if let Some(id) = self.ids.get(&spelled) {
                    break Some(*id);
                }
                end -= word[..end].chars().next_back().map_or(1, char::len_utf8);
            };
            match found {
                Some(id) => ids.push(id),
                None => {
                    ids.truncate(before);
                    ids.push(self.unknown);
                    return Ok(());
                }
            }
            start = end;
        }
        Ok(())
    }
}
