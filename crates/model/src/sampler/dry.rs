//! DRY (don't repeat yourself): a penalty for tokens that would continue a repetition of the recent text.
//!
//! ```text
//! window   = the last `penalty_last_n` tokens
//! limit    = the number of tokens after the last sequence breaker in the window
//! for each earlier position j of the window:
//!     length(j) = min(limit, the number of tokens that end before j and equal the end of the window)
//!     if length(j) >= allowed_length: the token at j would continue a repetition of this length
//! for each such token, with its longest repetition, unless the token has a sequence breaker in its text:
//!     logit -= multiplier * base ^ (length - allowed_length)
//! ```
//!
//! The lengths are computed for all positions together in linear time, by the Z algorithm on the reversed window.
//! Sequence breakers are searched for in the bytes of the text, so the split of the text into tokens does not matter.
//! llama.cpp searches for token sequences; for breakers of one character both give the same result.
//!
//! Sources: <https://github.com/oobabooga/text-generation-webui/pull/5677>; llama.cpp's `src/llama-sampler.cpp`; for
//! the Z algorithm Gusfield, Algorithms on Strings, Trees, and Sequences (1997), section 1.4.

use super::candidates::Candidates;
use super::settings::Dry;
use crate::Tokenizer;

/// The sequence breakers, and the texts of all tokens. The default value has no breakers.
#[derive(Default)]
pub(super) struct Breakers {
    breakers: Vec<Vec<u8>>,
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// The end of each token's text in `bytes`.
    ends: Vec<usize>,
}

impl Breakers {
    /// Collects the texts of all tokens of a tokenizer.
    pub(super) fn new(breakers: &[String], tokenizer: &Tokenizer) -> Self {
        let texts = (0..tokenizer.len() as u32).map(|id| tokenizer.bytes(id, true));
        Self::of_texts(breakers, texts)
    }

    /// Makes breakers for a vocabulary with these texts.
    pub(super) fn of_texts(breakers: &[String], texts: impl Iterator<Item = Vec<u8>>) -> Self {
        let breakers = breakers.iter().map(|text| text.as_bytes().to_vec()).collect();
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for text in texts {
            bytes.extend(text);
            ends.push(bytes.len());
        }
        Self { breakers, bytes, ends }
    }

    /// Returns the bytes of a token. A token outside of the vocabulary has none.
    fn text(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let begin = if token == 0 { 0 } else { self.ends.get(token - 1).copied().unwrap_or(0) };
        self.ends.get(token).map_or(&[], |end| &self.bytes[begin..*end])
    }

    /// Returns the end of the last breaker in a text, in bytes.
    fn last_end(&self, text: &[u8]) -> Option<usize> {
        let end = |breaker: &Vec<u8>| {
            text.windows(breaker.len()).rposition(|part| part == breaker).map(|begin| begin + breaker.len())
        };
        self.breakers.iter().filter_map(end).max()
    }

    /// Returns the number of tokens of the window after the token in which the last breaker ends. Without a breaker,
    /// these are all tokens.
    fn tokens_after(&self, window: &[u32]) -> usize {
        let mut text = Vec::new();
        let mut ends = Vec::with_capacity(window.len());
        for token in window {
            text.extend_from_slice(self.text(*token));
            ends.push(text.len());
        }
        match self.last_end(&text) {
            // The breaker's last byte is in the first token that ends at or after the end of the breaker.
            Some(end) => ends.iter().rev().take_while(|token_end| **token_end >= end).count() - 1,
            None => window.len(),
        }
    }
}

/// Lowers the logits of the tokens that would continue a repetition. `recent` has the earlier tokens, the oldest first.
pub(super) fn penalize(candidates: &mut Candidates, dry: &Dry, breakers: &Breakers, recent: &[u32]) {
    let window = &recent[recent.len().saturating_sub(dry.penalty_last_n)..];
    let limit = breakers.tokens_after(window);
    let reversed: Vec<u32> = window.iter().rev().copied().collect();
    let lengths = common_prefixes(&reversed);
    let mut repetitions: Vec<(u32, usize)> = (1..reversed.len())
        .map(|k| (reversed[k - 1], lengths[k].min(limit)))
        .filter(|(_, length)| *length >= dry.allowed_length)
        .collect();
    // Of each token, the longest repetition is first and stays.
    repetitions.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    repetitions.dedup_by_key(|(token, _)| *token);
    for (token, length) in repetitions {
        if breakers.last_end(breakers.text(token)).is_none() {
            let exponent = (length - dry.allowed_length) as f64;
            let penalty = f64::from(dry.multiplier) * f64::from(dry.base).powf(exponent);
            candidates.change(token, |logit| logit - penalty.min(f64::from(f32::MAX)) as f32);
        }
    }
}

/// Returns for each position the length of the longest text that begins there and at the beginning of `tokens`. The
/// first value is 0. Takes linear time (Z algorithm).
fn common_prefixes(tokens: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; tokens.len()];
    // `tokens[begin..end]` equals the beginning of `tokens`. Of all such parts found so far, it has the largest end.
    let (mut begin, mut end) = (0, 0);
    for i in 1..tokens.len() {
        let mut length = if i < end { lengths[i - begin].min(end - i) } else { 0 };
        while i + length < tokens.len() && tokens[length] == tokens[i + length] {
            length += 1;
        }
        if i + length > end {
            (begin, end) = (i, i + length);
        }
        lengths[i] = length;
    }
    lengths
}
