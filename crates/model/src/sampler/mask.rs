//! The set of tokens that may be chosen, for example the tokens that fit a grammar.

/// The tokens that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    /// One bit for each token id, 64 in a word. 1 means allowed.
    words: Vec<u64>,
}

impl TokenMask {
    /// Returns a mask that allows no token. It has bits for all ids below `vocabulary`, the number of tokens.
    pub fn none(vocabulary: usize) -> Self {
        Self { words: vec![0; vocabulary.div_ceil(64)] }
    }

    /// Makes a mask from bits, 32 in a word, the lowest id in the lowest bit. It has bits for all ids below `vocabulary`;
    /// further bits are ignored.
    pub fn of_words(vocabulary: usize, words: &[u32]) -> Self {
        let mut mask = Self::none(vocabulary);
        let last = mask.words.len().checked_sub(1);
        for (index, word) in words.iter().enumerate() {
            if let Some(own) = mask.words.get_mut(index / 2) {
                *own |= u64::from(*word) << (index % 2 * 32);
            }
        }
        if let (Some(last), rest @ 1..) = (last, vocabulary % 64) {
            mask.words[last] &= (1 << rest) - 1;
        }
        mask
    }

    /// Allows a token. An id without a bit in the mask stays forbidden.
    pub fn allow(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 64) {
            *word |= 1 << (id % 64);
        }
    }

    /// True if a token is allowed.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}
