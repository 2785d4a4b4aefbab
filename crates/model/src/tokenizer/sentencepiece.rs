//! SentencePiece's BPE with scores: neighbouring pieces whose join has the highest score are merged first.
//!
//! Source: llama.cpp's `llm_tokenizer_spm` (`src/llama-vocab.cpp`), after SentencePiece's `bpe_model.cc`. What the
//! vocabulary lacks is left to the caller.
//!
//! ```text
//! pieces ← characters;  queue ← every neighbouring pair that is a token
//! while queue: take the pair of highest score, leftmost on a tie; merge it if both halves still stand
//!              queue ← its new neighbours
//! ```

use super::byte_pair::{marks_inside, next_mark};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// How a space is spelled in tokens.
pub(super) const SPACE: &str = "\u{2581}";

/// The byte that a token such as `<0x41>` stands for.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Tokens that characters merge to.
pub(super) struct Scored {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    /// Tokens that exist for merging alone and are taken apart again, by id.
    unused: Vec<bool>,
    any_unused: bool,
    /// No token crosses the beginning of a word that `▁` marks.
    cuts: bool,
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

/// One part of a text: a token, or text that is none.
pub(super) type Part = (std::ops::Range<usize>, Option<u32>);

/// Words that were met already, and the parts that they came to.
pub(super) type Remembered = HashMap<Box<str>, Box<[Part]>>;

const REMEMBERED: usize = 1 << 16;
const LONGEST_REMEMBERED: usize = 64;

impl Scored {
    /// `scores` and `unused` are by id.
    pub fn new(ids: HashMap<String, u32>, scores: Vec<f32>, unused: Vec<bool>) -> Self {
        let cuts = !ids.keys().any(|token| marks_inside(token));
        let any_unused = unused.contains(&true);
        // Scores that are no numbers merge last.
        let scores = scores.into_iter().map(|s| if s.is_nan() { f32::NEG_INFINITY } else { s }).collect();
        Self { ids, scores, unused, any_unused, cuts }
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The parts of a text whose spaces are spelled `▁`.
    pub fn encode(&self, text: &str, remembered: &mut Remembered, take: &mut dyn FnMut(&str, Option<u32>)) {
        let mut rest = text;
        while !rest.is_empty() {
            let end = if self.cuts { next_mark(rest) } else { rest.len() };
            let (word, after) = rest.split_at(end);
            if let Some(known) = remembered.get(word) {
                for (range, id) in known {
                    take(&word[range.clone()], *id);
                }
            } else {
                let parts = self.merge(word);
                for (range, id) in &parts {
                    take(&word[range.clone()], *id);
                }
                if word.len() <= LONGEST_REMEMBERED {
                    if remembered.len() >= REMEMBERED {
                        remembered.clear();
                    }
                    remembered.insert(word.into(), parts.into());
                }
            }
            rest = after;
        }
    }

    fn merge(&self, text: &str) -> Vec<Part> {
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
        // Text of a token that is taken apart again → bytes of its left half.
        let mut halves: HashMap<&str, usize> = HashMap::new();
        let mut queue = BinaryHeap::new();
        for left in 0..pieces.len().saturating_sub(1) {
            self.consider(text, &pieces, left, left + 1, &mut queue, &mut halves);
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
                self.consider(text, &pieces, pair.left, next, &mut queue, &mut halves);
            }
            if let Some(previous) = left.previous {
                self.consider(text, &pieces, previous, pair.left, &mut queue, &mut halves);
            }
        }
        let mut parts = Vec::new();
        for piece in pieces.iter().filter(|p| p.length > 0) {
            let mut open = Vec::from_iter(std::iter::once(piece.start..piece.start + piece.length));
            while let Some(range) = open.pop() {
                let part = &text[range.clone()];
                let id = self.id(part);
                let unused = id.is_some_and(|id| self.unused.get(id as usize) == Some(&true));
                match halves.get(part).filter(|left| unused && **left < part.len()) {
                    Some(left) => {
                        let middle = range.start + left;
                        open.push(middle..range.end);
                        open.push(range.start..middle);
                    }
                    None => parts.push((range, id)),
                }
            }
        }
        parts
    }

    fn consider<'a>(
        &self,
        text: &'a str,
        pieces: &[Piece],
        left: usize,
        right: usize,
        queue: &mut BinaryHeap<Pair>,
        halves: &mut HashMap<&'a str, usize>,
    ) {
        let length = pieces[left].length + pieces[right].length;
        let joined = &text[pieces[left].start..pieces[left].start + length];
        if let Some(&id) = self.ids.get(joined) {
            let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
            queue.push(Pair { left, right, score, length });
            if self.any_unused && self.unused.get(id as usize) == Some(&true) {
                halves.insert(joined, pieces[left].length);
            }
        }
    }
}
