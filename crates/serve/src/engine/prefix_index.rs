//! States of finished conversations, found by their tokens.
//!
//! An entry is a sequence and the tokens that it holds. Entries lie sorted by their tokens. The entries with the longest
//! common prefix with a text are therefore its two neighbours. A network with attention alone can return to each length
//! of an entry. A network with windows or recurrent states can return only to some lengths
//! ([`Sequence::truncated_length`]), so shorter entries are tried, too.
//!
//! The memory of entries belongs to the pool of the sequences. The scheduler removes the entry that was unused for the
//! longest time when a running sequence needs the memory.

use kvant::model::Sequence;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Largest number of entries. It bounds the memory for their tokens, which is outside the pool.
const ENTRIES: usize = 1024;

struct Entry {
    sequence: Sequence,
    /// The value of the clock at the last use.
    used: u64,
}

/// The index.
#[derive(Default)]
pub struct PrefixIndex {
    entries: BTreeMap<Vec<u32>, Entry>,
    clock: u64,
}

/// The number of tokens at the beginning of both texts that are equal.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl PrefixIndex {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keeps `sequence`, which holds `tokens`. Entries that it replaces are removed: those with a prefix of its tokens, if
    /// it can return to their length.
    pub fn insert(&mut self, tokens: Vec<u32>, sequence: Sequence) {
        assert_eq!(tokens.len(), sequence.len(), "the tokens of the sequence");
        if tokens.is_empty() {
            return;
        }
        while let Some((shorter, _)) = self.prefix_of(&tokens)
            && sequence.truncated_length(shorter.len()) == shorter.len()
        {
            let shorter = shorter.clone();
            self.entries.remove(&shorter);
        }
        self.clock += 1;
        self.entries.insert(tokens, Entry { sequence, used: self.clock });
        if self.entries.len() > ENTRIES {
            self.evict();
        }
    }

    /// Returns the longest other entry whose tokens are all at the beginning of `tokens`.
    fn prefix_of(&self, tokens: &[u32]) -> Option<(&Vec<u32>, &Entry)> {
        let mut end = tokens;
        loop {
            let before = (Bound::Unbounded, Bound::Excluded(end));
            let (key, entry) = self.entries.range::<[u32], _>(before).next_back()?;
            let common = common_prefix(key, tokens);
            if common == key.len() {
                return Some((key, entry));
            }
            // Every shorter prefix is at most this long. The entry of exactly this length comes before `key`, too.
            if common == 0 {
                return None;
            }
            if let Some((key, entry)) = self.entries.get_key_value(&tokens[..common]) {
                return Some((key, entry));
            }
            end = &tokens[..common];
        }
    }

    /// Returns a sequence with the longest known beginning of `tokens`, if an entry helps, and the length of the longest
    /// beginning that an entry has in common with `tokens`. The second is longer if the entry cannot return to it.
    pub fn find(&mut self, tokens: &[u32]) -> (Option<Sequence>, usize) {
        let up_to = (Bound::Unbounded, Bound::Included(tokens));
        let after = (Bound::Excluded(tokens), Bound::Unbounded);
        let neighbours = [
            self.entries.range::<[u32], _>(up_to).next_back(),
            self.entries.range::<[u32], _>(after).next(),
            self.prefix_of(tokens),
        ];
        let mut common = 0;
        let mut best: Option<(usize, &Vec<u32>)> = None;
        for (key, entry) in neighbours.into_iter().flatten() {
            let shared = common_prefix(key, tokens);
            let length = entry.sequence.truncated_length(shared);
            common = common.max(shared);
            if length > best.map_or(0, |(length, _)| length) {
                best = Some((length, key));
            }
        }
        let Some((length, key)) = best.map(|(length, key)| (length, key.clone())) else {
            return (None, common);
        };
        self.clock += 1;
        let clock = self.clock;
        let found = self.entries.get_mut(&key).map(|entry| {
            entry.used = clock;
            let mut sequence = entry.sequence.fork();
            sequence.truncate(length);
            sequence
        });
        (found, common)
    }

    /// Removes the entry that was unused for the longest time. Returns false if there is none.
    pub fn evict(&mut self) -> bool {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.entries.remove(&key).is_some())
    }
}
