//! Finds the texts of a list that are prefixes of a text.
//!
//! The list is sorted. Its memory is a small multiple of the size of the texts. A tree of hash maps takes hundreds of
//! bytes for each byte of text.

/// A sorted list of texts.
pub(super) struct Prefixes {
    texts: Vec<String>,
    /// The first two bytes as a number (see [`two_bytes`]) → index of the first text with these or higher bytes.
    starts: Vec<u32>,
}

impl Prefixes {
    /// Makes the list. `texts` are sorted, and none is empty or occurs twice.
    pub fn new(texts: Vec<String>) -> Self {
        let mut starts = vec![texts.len() as u32; (1 << 16) + 1];
        for (at, text) in texts.iter().enumerate().rev() {
            starts[two_bytes(text.as_bytes())] = at as u32;
        }
        for key in (0..1 << 16).rev() {
            starts[key] = starts[key].min(starts[key + 1]);
        }
        Self { texts, starts }
    }

    /// Length in bytes of the text with this index.
    pub fn length(&self, index: usize) -> usize {
        self.texts[index].len()
    }

    /// Length in bytes of the longest prefix of `text` that is also a prefix of a text in the list.
    pub fn common(&self, text: &[u8]) -> usize {
        let at = self.texts.partition_point(|t| t.as_bytes() < text);
        let same = |t: &String| t.bytes().zip(text).take_while(|(a, b)| a == *b).count();
        let before = at.checked_sub(1).and_then(|at| self.texts.get(at));
        [before, self.texts.get(at)].into_iter().flatten().map(same).max().unwrap_or(0)
    }

    /// Calls `found` with the index of every text that is a prefix of `text`, the shortest text first.
    pub fn find(&self, text: &[u8], found: &mut dyn FnMut(usize)) {
        let Some(&first) = text.first() else { return };
        // In the sorted list, a text of a single byte comes before all longer texts with the same first byte.
        let key = usize::from(first) << 8;
        let one = self.starts[key] as usize;
        if self.texts.get(one).is_some_and(|t| t.as_bytes() == [first]) {
            found(one);
        }
        if text.len() < 2 {
            return;
        }
        let key = two_bytes(text);
        let (mut low, mut high) = (self.starts[key] as usize, self.starts[key + 1] as usize);
        let mut depth = 2;
        while low < high {
            let here = self.texts[low].as_bytes();
            if here.len() == depth {
                found(low);
                low += 1;
                continue;
            }
            if here.len() < depth {
                low += 1;
                continue;
            }
            let Some(&next) = text.get(depth) else { return };
            let range = &self.texts[low..high];
            let begin = low + range.partition_point(|t| t.as_bytes()[depth] < next);
            let range = &self.texts[begin..high];
            high = begin + range.partition_point(|t| t.as_bytes()[depth] == next);
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
