//! SentencePiece's BPE with scores. The two neighbouring pieces whose merged text is the token with the highest score
//! are merged first.
//!
//! Source: llama.cpp's `llm_tokenizer_spm` (`src/llama-vocab.cpp`), which follows SentencePiece's `bpe_model.cc`. The
//! caller handles text that the vocabulary lacks.
//!
//! ```text
//! pieces ← characters;  queue ← every neighbouring pair that is a token
//! while queue: take the pair of highest score, leftmost on a tie; skip it if one half was merged already,
//!              else merge it and queue the new pairs
//! ```

use super::Map;
use super::byte_pair::Borders;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// The spelling of a space in tokens: `▁`.
pub(super) const SPACE: &str = "\u{2581}";

/// The byte of a byte token such as `<0x41>`; `None` for another token.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// A BPE model with scores.
pub(super) struct Scored {
    ids: Map<String, u32>,
    scores: Vec<f32>,
    /// True if a token exists only for merging, indexed by id. After the merging, such a token is split into its two
    /// halves.
    unused: Vec<bool>,
    any_unused: bool,
    /// Where a text can be cut without a change of the parts.
    borders: Borders,
}

/// A stretch of text in a doubly linked list, with start and length in bytes. The length is 0 after the piece was
/// merged into its left neighbour.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    length: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbouring pieces that can be merged. `score` is the score of the merged token, and `length` is its length in
/// bytes.
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

/// One part of a text: its byte range, and the id of its token (`None` if the part is not a token).
pub(super) type Part = (std::ops::Range<usize>, Option<u32>);

/// Cache of encoded words: the text of a word and its parts.
pub(super) type Remembered = Map<Box<str>, Box<[Part]>>;

/// Largest number of words in the cache of encoded words.
const REMEMBERED: usize = 1 << 16;
/// Largest length in bytes of a word in the cache.
const LONGEST_REMEMBERED: usize = 64;

impl Scored {
    /// Makes a model. `scores` and `unused` are indexed by id. An empty `unused` means that no token is unused.
    pub fn new(ids: Map<String, u32>, scores: Vec<f32>, unused: Vec<bool>) -> Self {
        let mut borders = Borders::default();
        ids.keys().for_each(|token| borders.add(token));
        let any_unused = unused.contains(&true);
        // A token with a NaN score is merged last.
        let scores = scores.into_iter().map(|s| if s.is_nan() { f32::NEG_INFINITY } else { s }).collect();
        Self { ids, scores, unused, any_unused, borders }
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Calls `take` with every part of `text`, in order, and the id of its token. `▁` already spells the spaces of
    /// `text`.
    pub fn encode(&self, text: &str, remembered: &mut Remembered, take: &mut dyn FnMut(&str, Option<u32>)) {
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.borders.first(rest));
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

    /// Splits a text into parts, without the cache.
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
        // The text of an unused token → the length of its left half in bytes.
        let mut halves: HashMap<&str, usize> = HashMap::new();
        let mut queue = BinaryHeap::new();
        for left in 0..pieces.len().saturating_sub(1) {
            self.consider(text, &pieces, left, left + 1, &mut queue, &mut halves);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (pieces[pair.left], pieces[pair.right]);
            // One half may have been merged with another piece after the pair was queued.
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

    /// Queues the pair `left` and `right` if their merged text is a token.
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
