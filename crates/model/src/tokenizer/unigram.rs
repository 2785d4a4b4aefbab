//! Unigram: splits a text into pieces (tokens) so that the sum of their scores is as high as possible (Viterbi
//! algorithm).
//!
//! Sources: SentencePiece's `unigram_model.cc` (`EncodeOptimized`), which computes the sums in double precision since
//! version 0.2; the `tokenizers` crate's `models/unigram`, which follows SentencePiece.

use super::prefixes::Prefixes;
use std::collections::HashMap;

/// A character that no piece covers gets the lowest score of all pieces minus this value.
const UNKNOWN_PENALTY: f64 = 10.0;

/// One piece of the vocabulary.
pub(super) struct Piece {
    pub text: String,
    pub id: u32,
    pub score: f64,
    /// True if this is a user-defined symbol, which is preferred to all other pieces.
    pub user_defined: bool,
}

/// A Unigram model.
pub(super) struct Unigram {
    prefixes: Prefixes,
    /// Ids and scores of the pieces, in the order of `prefixes`.
    ids: Vec<u32>,
    scores: Vec<f64>,
    /// Score of a character that no piece covers.
    unknown: f64,
}

impl Unigram {
    /// Makes a model. If several pieces have the same text, the last piece counts.
    pub fn new(pieces: Vec<Piece>) -> Self {
        let own = pieces.iter().filter(|p| !p.user_defined).map(|p| p.score);
        let lowest = own.fold(f64::INFINITY, f64::min);
        Self::with_unknown(pieces, lowest - UNKNOWN_PENALTY)
    }

    /// Makes a model whose score of a character that no piece covers is `unknown`.
    pub fn with_unknown(pieces: Vec<Piece>, unknown: f64) -> Self {
        let own = pieces.iter().filter(|p| !p.user_defined).map(|p| p.score);
        let highest = own.fold(f64::NEG_INFINITY, f64::max);
        let score = |piece: &Piece| match piece.user_defined {
            true => piece.text.len() as f64 * highest - 0.1,
            false => piece.score,
        };
        let by_text: HashMap<String, (u32, f64)> = pieces
            .into_iter()
            .filter(|p| !p.text.is_empty())
            .map(|p| {
                let entry = (p.id, score(&p));
                (p.text, entry)
            })
            .collect();
        let mut sorted: Vec<(String, (u32, f64))> = by_text.into_iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let (texts, pieces): (Vec<String>, Vec<(u32, f64)>) = sorted.into_iter().unzip();
        let (ids, scores) = pieces.into_iter().unzip();
        Self { prefixes: Prefixes::new(&texts), ids, scores, unknown }
    }

    /// Calls `take` with every part of the best split, in order, and its id. The id is `None` if no piece covers the
    /// part; such a part is one character.
    pub fn encode<'a>(&self, text: &'a str, take: &mut dyn FnMut(&'a str, Option<u32>)) {
        // The best split of the text before a place: its score, and its last part. A length of 0 means no split.
        #[derive(Clone, Copy)]
        struct Best {
            score: f64,
            length: u32,
            piece: u32,
        }
        const NO_PIECE: u32 = u32::MAX;
        let mut best = vec![Best { score: 0.0, length: 0, piece: NO_PIECE }; text.len() + 1];
        for (start, c) in text.char_indices() {
            let before = best[start].score;
            let mut consider = |length: usize, score: f64, piece: u32| {
                let score = score + before;
                let place = &mut best[start + length];
                if place.length == 0 || score > place.score {
                    *place = Best { score, length: length as u32, piece };
                }
            };
            let mut covered = false;
            self.prefixes.find(&text.as_bytes()[start..], |length, at| {
                covered |= length == c.len_utf8();
                consider(length, self.scores[at], at as u32);
            });
            if !covered {
                consider(c.len_utf8(), self.unknown, NO_PIECE);
            }
        }
        let mut parts = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { length, piece, .. } = best[end];
            let start = end - length as usize;
            if start == end {
                break;
            }
            parts.push((start, end, piece));
            end = start;
        }
        for (start, end, piece) in parts.into_iter().rev() {
            let id = (piece != NO_PIECE).then(|| self.ids[piece as usize]);
            take(&text[start..end], id);
        }
    }
}
