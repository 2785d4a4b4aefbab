//! SentencePiece's compiled normalization rules: a double-array trie over bytes, and the replacement texts in sequence.
//!
//! Source: SentencePiece's `normalizer.cc` and Darts-clone; every index is checked here, because the rules come from a
//! file. `tokenizers` applies the rules in another way: first to grapheme clusters, then to single characters
//! ([`Charsmap::by_cluster`]).

use unicode_segmentation::UnicodeSegmentation;

/// The rules. `units` is the trie. `replacements` has the replacement texts; a zero byte ends each text.
#[derive(Clone)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// Parses the rules; returns `None` if `bytes` are not valid rules.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
            return None;
        }
        let (units, replacements) = rest.split_at(size);
        let units = units.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        std::str::from_utf8(replacements).ok()?;
        Some(Self { units, replacements: replacements.to_vec() })
    }

    /// Applies the longest rule that matches at the beginning of `text`. Returns the length in bytes of the matched
    /// text, and its replacement.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        self.search(text, |_| true)
    }

    /// The replacement of `text` as `tokenizers` finds it. That is the replacement of the shortest rule that matches at
    /// the beginning of `text`.
    fn shortest(&self, text: &str) -> Option<&str> {
        self.search(text.as_bytes(), |_| false).map(|(_, replacement)| replacement)
    }

    /// Searches for a rule that matches at the beginning of `text`. After each match, the search continues to longer
    /// rules if `go_on` returns true for the length of the match.
    fn search(&self, text: &[u8], go_on: impl Fn(usize) -> bool) -> Option<(usize, &str)> {
        let unit = |at: usize| self.units.get(at).copied();
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut at = offset(unit(0)?);
        let mut found = None;
        for (length, &byte) in (1..).zip(text) {
            at ^= usize::from(byte);
            let Some(here) = unit(at) else { break };
            if byte == 0 || here & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(here);
            if here >> 8 & 1 == 1 {
                let Some(value) = unit(at) else { break };
                found = Some((length, (value & 0x7fff_ffff) as usize));
                if !go_on(length) {
                    break;
                }
            }
        }
        let (length, start) = found?;
        let rest = self.replacements.get(start..)?;
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        Some((length, std::str::from_utf8(&rest[..end]).ok()?))
    }

    /// Returns the characters of the normalized text; `None` if no rule applies. The number of each character is the
    /// change of the text length in characters at this place, negative if characters are removed.
    /// `NormalizedString::transform` takes this list.
    pub fn by_cluster(&self, text: &str) -> Option<Vec<(char, isize)>> {
        let mut changes = Vec::with_capacity(text.len());
        let mut changed = false;
        self.parts(text, &mut |old, new| match new {
            None => changes.extend(old.chars().map(|c| (c, 0))),
            Some(new) => {
                changed = true;
                replace(&mut changes, old, new);
            }
        });
        changed.then_some(changes)
    }

    /// Returns the normalized text, without the changes of its length.
    pub fn normalized(&self, text: &str) -> String {
        let mut normalized = String::with_capacity(text.len());
        self.parts(text, &mut |old, new| normalized.push_str(new.unwrap_or(old)));
        normalized
    }

    /// Divides a text and calls `take` with each part and its replacement, or `None` if no rule applies to it.
    fn parts<'a>(&'a self, text: &'a str, take: &mut dyn FnMut(&'a str, Option<&'a str>)) {
        let unchanged: [bool; 128] = std::array::from_fn(|i| {
            // A line feed is a cluster with the carriage return before it.
            i != usize::from(b'\n') && self.shortest(char::from(i as u8).encode_utf8(&mut [0; 4])).is_none()
        });
        let mut rest = text;
        loop {
            // A character between ASCII characters is a cluster of its own.
            let bytes = rest.as_bytes();
            let is_alone = |at: &usize| {
                unchanged.get(usize::from(bytes[*at])) == Some(&true)
                    && bytes.get(at + 1).is_none_or(u8::is_ascii)
            };
            let (alone, after) = rest.split_at((0..bytes.len()).take_while(is_alone).count());
            if !alone.is_empty() {
                take(alone, None);
            }
            let Some(cluster) = after.graphemes(true).next() else { return };
            rest = &after[cluster.len()..];
            if cluster.len() < 6
                && let Some(new) = self.shortest(cluster)
            {
                take(cluster, Some(new));
                continue;
            }
            for (at, c) in cluster.char_indices() {
                let old = &cluster[at..at + c.len_utf8()];
                take(old, self.shortest(old));
            }
        }
    }
}

/// Appends the characters of `new`, which replaces `old`, with their changes of the text length.
fn replace(changes: &mut Vec<(char, isize)>, old: &str, new: &str) {
    let difference = new.chars().count() as isize - old.chars().count() as isize;
    changes.extend(new.chars().map(|c| (c, 0)));
    if difference > 0 {
        changes.iter_mut().rev().take(difference as usize).for_each(|(_, more)| *more = 1);
    } else if let Some((_, more)) = changes.last_mut() {
        *more += difference;
    }
}
