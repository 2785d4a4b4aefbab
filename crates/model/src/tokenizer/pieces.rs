//! llama.cpp's tokenizer for Unigram (GGUF `t5`). The text is normalized with SentencePiece's compiled rules, spaces are
//! spelled `▁`, and the rest is split into pieces with the highest sum of scores.
//!
//! Source: llama.cpp's `src/llama-vocab.cpp`. It differs from SentencePiece: a user-defined token has the score 0, and
//! spaces at the end of a text are removed together with repeated spaces. llama.cpp leaves text unchanged that begins as
//! a user-defined token does; here this text ends at the border of a character, while llama.cpp may cut a character.

use super::added::{AddedTokens, Open};
use super::charsmap::Charsmap;
use super::prefixes::Prefixes;
use super::sentencepiece::SPACE;
use super::unigram::{Piece, Unigram};
use super::{Fragment, TokenKind, TokenizerError, fragments};

/// A character that no piece covers gets the lowest score of all normal pieces minus this value.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The tokenizer.
pub(super) struct Pieces {
    model: Unigram,
    unknown: Option<u32>,
    charsmap: Option<Charsmap>,
    user_defined: Prefixes,
    any_user_defined: bool,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
    added: AddedTokens,
}

/// Settings of [`Pieces`].
pub(super) struct Settings<'a> {
    /// Text of every token, indexed by id, as the two lists after it.
    pub tokens: &'a [String],
    pub kinds: &'a [TokenKind],
    pub scores: &'a [f32],
    pub charsmap: &'a [u8],
    pub unknown: Option<u32>,
    pub add_space_prefix: bool,
    pub remove_extra_whitespaces: bool,
}

impl Pieces {
    /// Makes the tokenizer.
    ///
    /// # Errors
    /// [`TokenizerError::Key`] if the normalization rules are malformed.
    pub fn new(settings: &Settings, added: AddedTokens) -> Result<Self, TokenizerError> {
        let all = || (0..).zip(settings.tokens.iter().zip(settings.kinds).zip(settings.scores));
        let normal = all().filter(|(_, ((_, kind), _))| **kind == TokenKind::Normal);
        let lowest = normal.map(|(_, (_, score))| *score).fold(f32::MAX, f32::min);
        let pieces = all().filter_map(|(id, ((text, kind), score))| {
            let score = match kind {
                TokenKind::Normal | TokenKind::Unused => *score,
                TokenKind::UserDefined => 0.0,
                _ => return None,
            };
            Some(Piece { text: text.clone(), id, score: score.into(), user_defined: false })
        });
        let mut user_defined: Vec<String> = all()
            .filter(|(_, ((text, kind), _))| **kind == TokenKind::UserDefined && !text.is_empty())
            .map(|(_, ((text, _), _))| text.clone())
            .collect();
        user_defined.sort_unstable();
        user_defined.dedup();
        let charsmap = match settings.charsmap.is_empty() {
            true => None,
            false => Some(Charsmap::new(settings.charsmap).ok_or_else(|| {
                let key = "tokenizer.ggml.precompiled_charsmap";
                TokenizerError::key(key, "SentencePiece's compiled rules", "something else")
            })?),
        };
        Ok(Self {
            model: Unigram::with_unknown(pieces.collect(), (lowest - UNKNOWN_PENALTY).into()),
            unknown: settings.unknown,
            charsmap,
            any_user_defined: !user_defined.is_empty(),
            user_defined: Prefixes::new(&user_defined),
            add_space_prefix: settings.add_space_prefix,
            remove_extra_whitespaces: settings.remove_extra_whitespaces,
            added,
        })
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    ///
    /// # Errors
    /// An error if too many added tokens overlap.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        fragments(text, self.added.find(text, open)?, &mut |fragment| {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => {
                    let mut after_unknown = false;
                    self.model.encode(&self.normalize(text), &mut |_, id| {
                        // Neighbouring unknown parts become one.
                        match id {
                            Some(id) => ids.push(id),
                            None if after_unknown => {}
                            None => ids.extend(self.unknown),
                        }
                        after_unknown = id.is_none();
                    });
                }
            }
            Ok(())
        })
    }

    /// One step of the normalization: the length in bytes of the text that is read at the beginning of `text`, and the
    /// text that replaces it.
    fn first<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        if self.any_user_defined {
            let mut length = self.user_defined.common(text.as_bytes());
            while !text.is_char_boundary(length) {
                length -= 1;
            }
            if length > 0 {
                return (length, &text[..length]);
            }
        }
        if let Some((length, new)) = self.charsmap.as_ref().and_then(|map| map.longest(text.as_bytes()))
            && text.is_char_boundary(length)
        {
            return (length, new);
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (length, &text[..length])
    }

    /// Normalizes a text.
    fn normalize(&self, text: &str) -> String {
        let mut normalized = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
        let (mut prefixed, mut in_word) = (false, false);
        let mut rest = text;
        while !rest.is_empty() {
            let (length, new) = self.first(rest);
            for c in new.chars() {
                if c == ' ' {
                    in_word = false;
                    if !self.remove_extra_whitespaces {
                        normalized.push_str(SPACE);
                    }
                    continue;
                }
                if !in_word {
                    in_word = true;
                    if self.remove_extra_whitespaces || self.add_space_prefix && !prefixed {
                        normalized.push_str(SPACE);
                        prefixed = true;
                    }
                }
                normalized.push(c);
            }
            rest = &rest[length..];
        }
        normalized
    }
}
