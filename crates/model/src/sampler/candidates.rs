//! The tokens that may still be chosen, and their logits. Every step of the chain changes a [`Candidates`].
//!
//! Invariant: each candidate's logit is finite. The probability of a candidate is proportional to
//! exp(logit / temperature).

use super::{LogProbabilities, SamplerError, TokenMask};
use std::borrow::Cow;

/// The tokens that may still be chosen.
pub(super) struct Candidates<'a> {
    /// The logits of the whole vocabulary; those of tokens that are no candidates have no meaning.
    logits: Cow<'a, [f32]>,
    /// The candidates, each once: in ascending order of ids, or the most probable first.
    ids: Vec<u32>,
    /// True if the most probable candidate is first.
    sorted: bool,
    /// Divisor of the logits.
    temperature: f64,
}

impl<'a> Candidates<'a> {
    /// Returns the tokens that `mask` allows and whose logit is above minus infinity. Without a mask, all tokens are
    /// allowed.
    ///
    /// # Errors
    /// [`SamplerError::Empty`] if there are no logits; [`SamplerError::NotFinite`] if the logit of an allowed token is
    /// NaN or positive infinity; [`SamplerError::NoneAllowed`] if there is no candidate.
    pub(super) fn new(logits: &'a [f32], mask: Option<&TokenMask>) -> Result<Self, SamplerError> {
        if logits.is_empty() {
            return Err(SamplerError::Empty);
        }
        let mut ids = Vec::with_capacity(logits.len());
        for (id, logit) in (0u32..).zip(logits) {
            if mask.is_none_or(|mask| mask.allows(id)) {
                check_finite(id as usize, *logit)?;
                if *logit > f32::NEG_INFINITY {
                    ids.push(id);
                }
            }
        }
        let candidates = Self { logits: Cow::Borrowed(logits), ids, sorted: false, temperature: 1.0 };
        candidates.check_any()?;
        Ok(candidates)
    }

    /// Checks that there is a candidate.
    pub(super) fn check_any(&self) -> Result<(), SamplerError> {
        if self.ids.is_empty() { Err(SamplerError::NoneAllowed) } else { Ok(()) }
    }

    /// Number of tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.logits.len()
    }

    /// Returns the candidates.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Returns the logit of a token.
    fn logit(&self, id: u32) -> f32 {
        self.logits[id as usize]
    }

    /// Returns the candidates' logits, before the division by the temperature.
    pub(super) fn logits(&self) -> impl Iterator<Item = f64> {
        self.ids.iter().map(|&id| f64::from(self.logit(id)))
    }

    /// Changes the logit of a token. A result that overflows becomes the largest finite number of its sign. An id
    /// outside of the vocabulary, and a logit of minus infinity, stay unchanged.
    pub(super) fn change(&mut self, id: u32, change: impl FnOnce(f32) -> f32) {
        if self.logits.get(id as usize).is_some_and(|x| x.is_finite()) {
            let logit = &mut self.logits.to_mut()[id as usize];
            *logit = change(*logit).clamp(f32::MIN, f32::MAX);
            self.sorted = false;
        }
    }

    /// Removes the tokens for which `banned` is true.
    pub(super) fn ban(&mut self, banned: impl Fn(u32) -> bool) {
        self.ids.retain(|&id| !banned(id));
    }

    /// Returns the candidate with the largest logit. On a tie, this is the first candidate.
    fn best(&self) -> u32 {
        let better = |a: u32, b: u32| if self.logit(b) > self.logit(a) { b } else { a };
        self.ids.iter().copied().reduce(better).expect("a step keeps at least one candidate")
    }

    /// Sorts the candidates: the most probable first. On a tie, the lower id is first.
    pub(super) fn sort(&mut self) {
        self.keep_best(self.ids.len());
    }

    /// Keeps the `count` most probable candidates, and sorts them.
    pub(super) fn keep_best(&mut self, count: usize) {
        if !self.sorted {
            best_first(&self.logits, &mut self.ids, count);
            self.sorted = true;
        }
        self.ids.truncate(count);
    }

    /// Removes the first `count` candidates.
    pub(super) fn drop_first(&mut self, count: usize) {
        self.ids.drain(..count);
    }

    /// Keeps the candidates for which `keep` is true. `keep` has one value for each candidate, in the same order.
    pub(super) fn keep_where(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.ids.retain(|_| keep.next().is_some_and(|keep| *keep));
    }

    /// Divides the logits by `temperature`. At 0, keeps only the candidate with the largest logit. On a tie, the
    /// candidate with the lower id stays.
    pub(super) fn scale(&mut self, temperature: f64) {
        if temperature > 0.0 {
            self.temperature *= temperature;
        } else {
            self.ids = vec![self.best()];
        }
    }

    /// Returns each candidate's probability divided by the probability of the most probable candidate.
    pub(super) fn weights(&self) -> Vec<f64> {
        let top = f64::from(self.logit(self.best()));
        self.logits().map(|x| ((x - top) / self.temperature).exp()).collect()
    }

    /// Returns the candidates' probabilities. Their sum is 1.
    pub(super) fn probabilities(&self) -> Vec<f64> {
        let weights = self.weights();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    }

    /// Returns the log probability of `token`, and the `count` most probable candidates with theirs. A candidate whose
    /// probability is too small for an `f32` is not among them.
    pub(super) fn log_probabilities(&self, token: u32, count: usize) -> LogProbabilities {
        let surprisal = self.surprisal();
        let log = |id: u32| -surprisal(f64::from(self.logit(id))) as f32;
        let mut ids = self.ids.clone();
        best_first(&self.logits, &mut ids, count);
        let top = ids.into_iter().map(|id| (id, log(id))).filter(|(_, value)| value.exp() > 0.0).collect();
        LogProbabilities { token: log(token), top }
    }

    /// Returns the candidates' surprisals -ln p in nats. They are finite even if p is too small for an `f64`.
    pub(super) fn surprisals(&self) -> Vec<f64> {
        self.logits().map(self.surprisal()).collect()
    }

    /// Returns a function from a candidate's logit to its surprisal.
    fn surprisal(&self) -> impl Fn(f64) -> f64 {
        let (top, temperature) = (f64::from(self.logit(self.best())), self.temperature);
        let log_total = self.weights().iter().sum::<f64>().ln();
        move |x| log_total - (x - top) / temperature
    }

    /// Chooses a candidate by its probability. `unit` is a uniform random number in [0, 1). Returns the token and its
    /// probability.
    pub(super) fn choose(&self, unit: f64) -> (u32, f64) {
        let best = self.best();
        let top = self.logit(best);
        // The difference is rounded to `f32`. Without this rounding, the same seed would give other answers than
        // version 0.1.
        let weight = |&id: &u32| (f64::from(self.logit(id) - top) / self.temperature).exp();
        let weights: Vec<f64> = self.ids.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mut left = unit * total;
        for (id, weight) in self.ids.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return (*id, weight / total);
            }
        }
        // Because of rounding, `left` may never fall below zero. In this case the last candidate with a weight above
        // zero is chosen.
        let possible = self.ids.iter().zip(&weights).rev().find(|(_, weight)| **weight > 0.0);
        possible.map_or((best, 1.0), |(id, weight)| (*id, weight / total))
    }
}

/// Checks that a logit is neither NaN nor positive infinity.
pub(super) fn check_finite(token: usize, value: f32) -> Result<(), SamplerError> {
    if value.is_nan() || value == f32::INFINITY {
        return Err(SamplerError::NotFinite { token, value });
    }
    Ok(())
}

/// Keeps the ids of the `count` largest logits, or all ids if there are fewer. The largest is first. On a tie, the
/// lower id is first.
pub(super) fn best_first(logits: &[f32], ids: &mut Vec<u32>, count: usize) {
    let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, better);
    }
    ids.truncate(count);
    ids.sort_unstable_by(better);
}
