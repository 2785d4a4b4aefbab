//! Unigram: splits a text into pieces (tokens) so that the sum of their scores is as high as possible (Viterbi
//! algorithm).
//!
//! Sources: SentencePiece's `unigram_model.cc` (`EncodeOptimized`), which computes the sums in double precision since
//! version 0.2; the `tokenizers` crate's `models/unigram`, which follows SentencePiece. Pieces are found in a sorted
//! list. Its memory is a small multiple of the size of the texts. A tree of hash maps takes hundreds of bytes for each
//! byte of text.

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
    /// Sorted by text. No two pieces have the same text.
    pieces: Vec<Piece>,
    /// The first two bytes as a number (see [`two_bytes`]) → index of the first piece with these or higher bytes.
    starts: Vec<u32>,
    /// Lowest score of all pieces that are not user-defined.
    lowest: f64,
    /// Highest score of all pieces that are not user-defined.
    highest: f64,
}

impl Unigram {
    /// Makes a model. If several pieces have the same text, the last piece counts.
    pub fn new(pieces: Vec<Piece>) -> Self {
        let mut lowest = f64::INFINITY;
        let mut highest = f64::NEG_INFINITY;
        for piece in pieces.iter().filter(|p| !p.user_defined) {
            lowest = lowest.min(piece.score);
            highest = highest.max(piece.score);
        }
        let by_text: HashMap<String, Piece> =
            pieces.into_iter().filter(|p| !p.text.is_empty()).map(|p| (p.text.clone(), p)).collect();
        let mut pieces: Vec<Piece> = by_text.into_values().collect();
        pieces.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        let mut starts = vec![pieces.len() as u32; (1 << 16) + 1];
        for (at, piece) in pieces.iter().enumerate().rev() {
            let key = two_bytes(piece.text.as_bytes());
            starts[key] = at as u32;
        }
        for key in (0..1 << 16).rev() {
            starts[key] = starts[key].min(starts[key + 1]);
        }
        Self { pieces, starts, lowest, highest }
    }

    /// Calls `take` with every part of the best split, in order, and its id. The id is `None` if no piece covers the
    /// part; such a part is one character.
    pub fn encode<'a>(&self, text: &'a str, take: &mut dyn FnMut(&'a str, Option<u32>)) {
        #[derive(Clone, Copy)]
        struct Best {
            score: f64,
            start: usize,
            piece: u32,
        }
        const NO_PIECE: u32 = u32::MAX;
        let unknown = self.lowest - UNKNOWN_PENALTY;
        let nowhere = Best { score: 0.0, start: usize::MAX, piece: NO_PIECE };
        let mut best = vec![nowhere; text.len() + 1];
        for (start, c) in text.char_indices() {
            let before = best[start].score;
            let mut consider = |end: usize, score: f64, piece: u32| {
                let score = score + before;
                if best[end].start == usize::MAX || score > best[end].score {
                    best[end] = Best { score, start, piece };
                }
            };
            let mut covered = false;
            self.prefixes(&text.as_bytes()[start..], &mut |at| {
                let piece = &self.pieces[at];
                let length = piece.text.len();
                let score = match piece.user_defined {
                    true => length as f64 * self.highest - 0.1,
                    false => piece.score,
                };
                covered |= length == c.len_utf8();
                consider(start + length, score, at as u32);
            });
            if !covered {
                consider(start + c.len_utf8(), unknown, NO_PIECE);
            }
        }
        let mut parts = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { start, piece, .. } = best[end];
            if start >= end {
                break;
            }
            parts.push((start, end, piece));
            end = start;
        }
        for (start, end, piece) in parts.into_iter().rev() {
            let id = (piece != NO_PIECE).then(|| self.pieces[piece as usize].id);
            take(&text[start..end], id);
        }
    }

    /// Calls `found` with the index of every piece that is a prefix of `text`, the shortest piece first.
    fn prefixes(&self, text: &[u8], found: &mut dyn FnMut(usize)) {
        let Some(&first) = text.first() else { return };
        // In the sorted list, a piece of a single byte comes before all longer pieces with the same first byte.
        let key = usize::from(first) << 8;
        let one = self.starts[key] as usize;
        if self.pieces.get(one).is_some_and(|p| p.text.len() == 1 && p.text.as_bytes()[0] == first) {
            found(one);
        }
        if text.len() < 2 {
            return;
        }
        let key = two_bytes(text);
        let (mut low, mut high) = (self.starts[key] as usize, self.starts[key + 1] as usize);
        let mut depth = 2;
        while low < high {
            let piece = self.pieces[low].text.as_bytes();
            if piece.len() == depth {
                found(low);
                low += 1;
                continue;
            }
            if piece.len() < depth {
                low += 1;
                continue;
            }
            let Some(&next) = text.get(depth) else { return };
            let range = &self.pieces[low..high];
            let begin = low + range.partition_point(|p| p.text.as_bytes()[depth] < next);
            let range = &self.pieces[begin..high];
            high = begin + range.partition_point(|p| p.text.as_bytes()[depth] == next);
            low = begin;
            depth += 1;
        }
    }
}

/// The first two bytes as a number. A missing second byte counts as 0, so the order of the numbers is the order of the
/// texts.
fn two_bytes(text: &[u8]) -> usize {
    usize::from(text[0]) << 8 | usize::from(text.get(1).copied().unwrap_or(0))
}
