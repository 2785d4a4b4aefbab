//! The model of a `tokenizer.json`, which converts one word to ids. Normalizer and pre-tokenizer have run before.

use super::byte_pair::{self, BytePair, Remembered};
use super::unigram::{Piece, Unigram};
use super::word_piece::WordPiece;
use super::{TokenizerError, json};
use std::collections::HashMap;

/// A model of one of the types of the `tokenizers` crate.
pub(super) enum Model {
    BytePair(Box<BytePair>),
    /// `bytes` has the ids of the byte tokens `<0x00>` to `<0xFF>`, if unknown text becomes byte tokens.
    Unigram {
        model: Unigram,
        unknown: Option<u32>,
        bytes: Option<Vec<Option<u32>>>,
    },
    /// WordPiece or WordLevel.
    WordPiece(WordPiece),
}

impl Model {
    /// Appends the ids of one word to `ids`.
    pub fn encode(
        &self,
        word: &str,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match self {
            Self::BytePair(model) => model.encode(word, remembered, ids),
            Self::WordPiece(model) => model.encode(word, ids)?,
            Self::Unigram { model, unknown, bytes } => {
                let mut unfinished: Option<(usize, usize)> = None;
                let flush = |part: &str, ids: &mut Vec<u32>| {
                    let fallback: Option<Vec<u32>> = bytes
                        .as_ref()
                        .and_then(|bytes| part.bytes().map(|b| bytes[usize::from(b)]).collect());
                    match (fallback, unknown) {
                        (Some(bytes), _) => ids.extend(bytes),
                        (None, Some(unknown)) => ids.push(*unknown),
                        (None, None) => {
                            return Err(TokenizerError::key("unk_id", "an id", "none, which the text needs"));
                        }
                    }
                    Ok(())
                };
                let mut result = Ok(());
                let mut at = 0;
                model.encode(word, &mut |part, id| {
                    let end = at + part.len();
                    match id.filter(|id| Some(*id) != *unknown) {
                        // Neighbouring unknown parts become one.
                        None => unfinished = Some((unfinished.map_or(at, |(start, _)| start), end)),
                        Some(id) => {
                            if let Some((start, end)) = unfinished.take()
                                && let Err(error) = flush(&word[start..end], ids)
                            {
                                result = Err(error);
                            }
                            ids.push(id);
                        }
                    }
                    at = end;
                });
                result?;
                if let Some((start, end)) = unfinished {
                    flush(&word[start..end], ids)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the model from the `model` of a file. `of_bytes` says whether its words are words of bytes.
    pub fn new(model: &json::Model, of_bytes: bool) -> Result<Self, TokenizerError> {
        let ids = || match &model.vocab {
            Some(json::Vocab::Ids(all)) => {
                let small = |(token, id): &(String, u64)| {
                    let id = u32::try_from(*id).ok().filter(|id| *id < super::LARGEST_ID);
                    id.map(|id| (token.clone(), id)).ok_or_else(|| {
                        TokenizerError::key("model.vocab", "ids below 2^22", format!("{token:?}"))
                    })
                };
                all.iter().map(small).collect::<Result<Vec<(String, u32)>, _>>()
            }
            _ => Err(TokenizerError::key("model.vocab", "an object token → id", "something else")),
        };
        let prefix = model.continuing_subword_prefix.clone();
        match type_of(model) {
            "BPE" => {
                if model.dropout.is_some_and(|p| p != 0.0) {
                    return Err(TokenizerError::key("model.dropout", "none", "some; its ids are random"));
                }
                let merges = model.merges.iter().flatten().map(|m| (m.0.clone(), m.1.clone())).collect();
                Ok(Self::BytePair(Box::new(BytePair::new(byte_pair::Settings {
                    vocabulary: ids()?,
                    merges,
                    first_counts: false,
                    of_bytes,
                    ignore_merges: model.ignore_merges.unwrap_or(false),
                    byte_fallback: model.byte_fallback.unwrap_or(false),
                    unknown: model.unk_token.clone(),
                    fuse_unknown: model.fuse_unk.unwrap_or(false),
                    prefix: prefix.unwrap_or_default(),
                    suffix: model.end_of_word_suffix.clone().unwrap_or_default(),
                })?)))
            }
            "WordPiece" => WordPiece::new(
                ids()?,
                model.unk_token.as_deref().unwrap_or("[UNK]"),
                prefix.unwrap_or_else(|| "##".into()),
                model.max_input_chars_per_word.unwrap_or(100),
            )
            .map(Self::WordPiece),
            "WordLevel" => {
                WordPiece::whole(ids()?, model.unk_token.as_deref().unwrap_or("<unk>")).map(Self::WordPiece)
            }
            "Unigram" => {
                let Some(json::Vocab::Scores(all)) = &model.vocab else {
                    return Err(TokenizerError::key(
                        "model.vocab",
                        "a list of tokens and scores",
                        "something else",
                    ));
                };
                let pieces: Vec<Piece> = all
                    .iter()
                    .zip(0..)
                    .map(|((text, score), id)| Piece {
                        text: text.clone(),
                        id,
                        score: *score,
                        user_defined: false,
                    })
                    .collect();
                let unknown = match model.unk_id {
                    None => None,
                    Some(id) if id < all.len() as u64 => Some(id as u32),
                    Some(id) => {
                        return Err(TokenizerError::key(
                            "model.unk_id",
                            "an id of the vocabulary",
                            id.to_string(),
                        ));
                    }
                };
                let bytes = model.byte_fallback.unwrap_or(false).then(|| {
                    let by_text: HashMap<&str, u32> =
                        pieces.iter().map(|p| (p.text.as_str(), p.id)).collect();
                    (0..256).map(|b| by_text.get(format!("<0x{b:02X}>").as_str()).copied()).collect()
                });
                Ok(Self::Unigram { model: Unigram::new(pieces), unknown, bytes })
            }
            other => Err(TokenizerError::key("model.type", "BPE, Unigram, WordPiece or WordLevel", other)),
        }
    }
}

/// The type of a model. Older files have no key `type`; then the type follows from their other keys.
pub(super) fn type_of(model: &json::Model) -> &str {
    match (model.kind.as_deref(), &model.vocab) {
        (Some(kind), _) => kind,
        (None, Some(json::Vocab::Scores(_))) => "Unigram",
        (None, _) if model.merges.is_some() => "BPE",
        (None, _) if model.continuing_subword_prefix.is_some() => "WordPiece",
        (None, _) => "WordLevel",
    }
}
