//! SentencePiece's BPE with scores: neighbouring pieces whose join has the highest score are merged first.
//!
//! Source: llama.cpp's `llm_tokenizer_spm` (`src/llama-vocab.cpp`), after SentencePiece's `bpe_model.cc`. What the
//! vocabulary lacks becomes byte tokens.
//!
//! ```text
//! pieces ← characters;  queue ← every neighbouring pair that is a token
//! while queue: take the pair of highest score, leftmost on a tie; merge it if both halves still stand
//!              queue ← its new neighbours
//! ```

use super::{Kind, Vocabulary, by_text};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// How a space is spelled in tokens.
pub(super) const SPACE: &str = "\u{2581}";

pub(super) struct SentencePiece {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    /// Token of each byte.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
}

/// The byte that a token such as `<0x41>` stands for.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// A stretch of text, linked to its neighbours; empty once merged into its left one.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    length: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

struct Pair {
    left: usize,
    right: usize,
    score: f32,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let ids: HashMap<String, u32> =
            by_text(vocabulary).into_iter().map(|(t, id)| (t.to_owned(), id)).collect();
        let mut bytes = vec![None; 256];
        for (b, slot) in bytes.iter_mut().enumerate() {
            *slot = ids.get(&format!("<0x{b:02X}>")).copied();
        }
        let scores = match &vocabulary.kind {
            Kind::SentencePiece { scores, .. } => scores.clone(),
            Kind::BytePair { .. } => Vec::new(),
        };
        Self { ids, scores, bytes, unknown: vocabulary.unknown }
    }

    /// Tokens of one stretch of plain text; `after_special` says whether a space prefix may go before it.
    pub fn encode(&self, text: &str, vocabulary: &Vocabulary, after_special: bool, ids: &mut Vec<u32>) {
        let prefix = if after_special && vocabulary.adds_space() { SPACE } else { "" };
        let text = format!("{prefix}{}", text.replace(' ', SPACE));
        let mut pieces: Vec<Piece> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Piece {
                start,
                length: c.len_utf8(),
                previous: i.checked_sub(1),
                next: Some(i + 1),
            })
            .collect();
        if let Some(last) = pieces.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for left in 0..pieces.len().saturating_sub(1) {
            self.consider(&text, &pieces, left, left + 1, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (pieces[pair.left], pieces[pair.right]);
            // One half may have been merged into something else since the pair was queued.
            if left.length == 0 || right.length == 0 || left.length + right.length != pair.length {
                continue;
            }
            pieces[pair.left].length = pair.length;
            pieces[pair.left].next = right.next;
            pieces[pair.right].length = 0;
            if let Some(next) = right.next {
                pieces[next].previous = Some(pair.left);
                self.consider(&text, &pieces, pair.left, next, &mut queue);
            }
            if let Some(previous) = left.previous {
                self.consider(&text, &pieces, previous, pair.left, &mut queue);
            }
        }
        for piece in pieces.iter().filter(|p| p.length > 0) {
            let part = &text[piece.start..piece.start + piece.length];
            match self.ids.get(part) {
                Some(id) => ids.push(*id),
                None => ids.extend(part.bytes().filter_map(|b| self.bytes[usize::from(b)].or(self.unknown))),
            }
        }
    }

    fn consider(
        &self,
        text: &str,
        pieces: &[Piece],
        left: usize,
        right: usize,
        queue: &mut BinaryHeap<Pair>,
    ) {
        let length = pieces[left].length + pieces[right].length;
        let joined = &text[pieces[left].start..pieces[left].start + length];
        if let Some(&id) = self.ids.get(joined) {
            let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
            queue.push(Pair { left, right, score, length });
        }
    }
}
