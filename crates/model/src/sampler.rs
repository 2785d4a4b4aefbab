//! Chooses a token from logits. The steps have llama.cpp's order: repeat penalty, top-k, top-p, min-p, temperature.
//!
//! Invariant: the same seed and logits give the same choice on every machine. At temperature 0 the token with the
//! largest logit is chosen. On a tie, this is the token with the lower id.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// An error in logits or settings.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// A logit is NaN or positive infinity, because the weights are damaged.
    #[error("logit {token} is {value}; the model's weights are damaged")]
    NotFinite {
        /// Id of the token.
        token: usize,
        /// The logit.
        value: f32,
    },
    /// A setting is outside of its range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The value of the setting.
        value: f32,
        /// Description of the allowed values.
        expected: &'static str,
    },
    /// There are no logits, or no logit for the token.
    #[error("no logits to choose from")]
    Empty,
    /// The mask allows no token whose probability is above zero.
    #[error("no token is allowed here")]
    NoneAllowed,
}

/// Settings for the choice of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits. At 0 the token with the largest logit is chosen.
    pub temperature: f32,
    /// Number of most probable tokens that are kept; 0 keeps all tokens.
    pub top_k: usize,
    /// The most probable tokens are kept until the sum of their probabilities reaches this value.
    pub top_p: f32,
    /// Tokens are kept if their probability is at least this fraction of the largest probability.
    pub min_p: f32,
    /// Penalty for recent tokens: a positive logit is divided by this value, another logit is multiplied by it. 1 has
    /// no effect.
    pub repeat_penalty: f32,
    /// Seed of the random number generator.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed: 0 }
    }
}

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

/// Natural logarithms of the model's probabilities, before any sampling setting is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    /// Log probability of the requested token.
    pub token: f32,
    /// Ids and log probabilities of the most probable tokens, in descending order of probability. On a tie, the lower
    /// id is first.
    pub top: Vec<(u32, f32)>,
}

impl LogProbabilities {
    /// Computes the log probabilities of `token` and of the `count` most probable tokens from the logits of one
    /// position.
    ///
    /// # Errors
    /// [`SamplerError::NotFinite`] for NaN or positive infinity; [`SamplerError::Empty`] if there is no logit for
    /// `token`.
    pub fn new(logits: &[f32], token: u32, count: usize) -> Result<Self, SamplerError> {
        check_finite(logits)?;
        let chosen = *logits.get(token as usize).ok_or(SamplerError::Empty)?;
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
        let log = |x: f32| (f64::from(x - top) - sum.ln()) as f32;
        let top = best_first(logits, count).into_iter().map(|id| (id, log(logits[id as usize]))).collect();
        Ok(Self { token: log(chosen), top })
    }
}

/// Checks that no logit is NaN or positive infinity.
fn check_finite(logits: &[f32]) -> Result<(), SamplerError> {
    match logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        Some(token) => Err(SamplerError::NotFinite { token, value: logits[token] }),
        None => Ok(()),
    }
}

/// Returns the ids of the `count` largest logits, or of all logits if there are fewer. The largest is first. On a tie,
/// the lower id is first.
fn best_first(logits: &[f32], count: usize) -> Vec<u32> {
    let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, better);
    }
    ids.truncate(count);
    ids.sort_unstable_by(better);
    ids
}

/// Number of recent tokens to which the repeat penalty applies (llama.cpp's default).
const PENALTY_TOKENS: usize = 64;

/// Chooses tokens with fixed settings and one sequence of random numbers.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// Makes a sampler at the beginning of its sequence of random numbers.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] for a setting outside its range.
    pub fn new(sampling: Sampling) -> Result<Self, SamplerError> {
        let check = |name, value: f32, low: f32, high: f32, expected| {
            // NaN fails both comparisons, so it is outside of every range.
            if value >= low && value <= high {
                Ok(())
            } else {
                Err(SamplerError::Setting { name, value, expected })
            }
        };
        check("temperature", sampling.temperature, 0.0, 1e6, "a number from 0 up")?;
        check("top-p", sampling.top_p, 0.0, 1.0, "a number from 0 to 1")?;
        check("min-p", sampling.min_p, 0.0, 1.0, "a number from 0 to 1")?;
        check("repeat-penalty", sampling.repeat_penalty, 1e-6, 1e6, "a number above 0")?;
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self { sampling, random })
    }

    /// Chooses the next token. `recent` has the earlier tokens, the oldest first.
    ///
    /// # Errors
    /// [`SamplerError::NotFinite`] for NaN or positive infinity; [`SamplerError::Empty`] if there are no logits.
    pub fn pick(&mut self, logits: &[f32], recent: &[u32]) -> Result<u32, SamplerError> {
        check_finite(logits)?;
        let penalized = self.penalize(logits, recent);
        let logits = penalized.as_deref().unwrap_or(logits);
        let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        let best = best.ok_or(SamplerError::Empty)?;
        if self.sampling.temperature == 0.0 {
            return Ok(best as u32);
        }
        let candidates = self.candidates(logits);
        let top = logits[best];
        let temperature = f64::from(self.sampling.temperature);
        let weight = |&id: &u32| (f64::from(logits[id as usize] - top) / temperature).exp();
        let weights: Vec<f64> = candidates.iter().map(weight).collect();
        // 53 random bits give a uniform value in [0, 1) that an `f64` holds exactly.
        let unit = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = unit * weights.iter().sum::<f64>();
        for (id, weight) in candidates.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return Ok(*id);
            }
        }
        // Because of rounding, `left` may never fall below zero. In this case the last candidate with a weight above
        // zero is chosen.
        let possible = candidates.iter().zip(&weights).rev().find(|(_, weight)| **weight > 0.0);
        Ok(possible.map_or(best as u32, |(id, _)| *id))
    }

    /// Chooses like [`Sampler::pick`], but only among the tokens that `mask` allows (for example the tokens that fit a
    /// grammar).
    ///
    /// # Errors
    /// The errors of [`Sampler::pick`]; [`SamplerError::NoneAllowed`] if no allowed token has a probability above zero.
    pub fn pick_allowed(
        &mut self,
        logits: &[f32],
        recent: &[u32],
        mask: &TokenMask,
    ) -> Result<u32, SamplerError> {
        let masked: Vec<f32> = (logits.iter().zip(0..))
            .map(|(x, id)| if mask.allows(id) { *x } else { f32::NEG_INFINITY })
            .collect();
        let picked = self.pick(&masked, recent)?;
        if mask.allows(picked) { Ok(picked) } else { Err(SamplerError::NoneAllowed) }
    }

    /// Returns the logits after the repeat penalty; `None` if the penalty changes nothing.
    fn penalize(&self, logits: &[f32], recent: &[u32]) -> Option<Vec<f32>> {
        let penalty = self.sampling.repeat_penalty;
        if penalty == 1.0 || recent.is_empty() {
            return None;
        }
        let mut logits = logits.to_vec();
        let mut seen: Vec<u32> = recent[recent.len().saturating_sub(PENALTY_TOKENS)..].to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(x) = logits.get_mut(id as usize) {
                *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
            }
        }
        Some(logits)
    }

    /// Returns the ids that remain after top-k, top-p and min-p, the most probable first. If all three are off, returns
    /// all ids in ascending order.
    fn candidates(&self, logits: &[f32]) -> Vec<u32> {
        let Sampling { top_k: keep, top_p, min_p, .. } = self.sampling;
        if keep == 0 && top_p >= 1.0 && min_p <= 0.0 {
            // All ids remain. Their order does not change the probabilities, so the sort is not needed.
            return (0..logits.len() as u32).collect();
        }
        let mut ids = best_first(logits, if keep == 0 { logits.len() } else { keep });
        let top = f64::from(logits[ids[0] as usize]);
        let weights: Vec<f64> = ids.iter().map(|&id| (f64::from(logits[id as usize]) - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let mut count = ids.len();
        for (i, weight) in weights.iter().enumerate() {
            reached += weight;
            if reached >= f64::from(self.sampling.top_p) * total {
                count = i + 1;
                break;
            }
        }
        let least = f64::from(self.sampling.min_p);
        let above = weights.iter().take_while(|w| **w >= least).count();
        ids.truncate(count.min(above).max(1));
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..200).map(|_| random.next_u32() as f32 / u32::MAX as f32 * 12.0 - 6.0).collect()
    }

    /// A mask gives the same choices as a vocabulary that consists only of the allowed tokens.
    #[test]
    fn a_mask_chooses_as_if_nothing_else_were_there() {
        for seed in 0..40 {
            let all = logits(seed);
            let allowed: Vec<u32> = (0..200).filter(|id| (id * 7 + seed as u32).is_multiple_of(11)).collect();
            let mut mask = TokenMask::none(200);
            allowed.iter().for_each(|&id| mask.allow(id));
            let few: Vec<f32> = allowed.iter().map(|&id| all[id as usize]).collect();
            for (temperature, top_k, top_p) in [(0.0, 40, 0.95), (1.0, 0, 1.0), (0.7, 5, 0.9)] {
                let sampling =
                    Sampling { temperature, top_k, top_p, min_p: 0.0, seed, ..Sampling::default() };
                let found = Sampler::new(sampling.clone()).unwrap().pick_allowed(&all, &[], &mask).unwrap();
                let expected = Sampler::new(sampling).unwrap().pick(&few, &[]).unwrap();
                assert_eq!(found, allowed[expected as usize], "{seed} {temperature} {top_k}");
            }
        }
        let nothing = TokenMask::none(200);
        let picked = Sampler::new(Sampling::default()).unwrap().pick_allowed(&logits(1), &[], &nothing);
        assert!(matches!(picked, Err(SamplerError::NoneAllowed)));
    }

    #[test]
    fn log_probabilities_are_those_of_a_plain_softmax() {
        let all = logits(3);
        let sum: f64 = all.iter().map(|x| f64::from(*x).exp()).sum();
        let expected = |id: u32| f64::from(all[id as usize]) - sum.ln();
        let found = LogProbabilities::new(&all, 17, 5).unwrap();
        assert!((f64::from(found.token) - expected(17)).abs() < 1e-5);
        let mut order: Vec<u32> = (0..200).collect();
        order.sort_by(|a, b| all[*b as usize].total_cmp(&all[*a as usize]));
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order[..5]);
        assert!(found.top.iter().all(|(id, log)| (f64::from(*log) - expected(*id)).abs() < 1e-5));
        assert!(LogProbabilities::new(&all, 200, 5).is_err());
        assert!(LogProbabilities::new(&[f32::NAN], 0, 1).is_err());
        assert_eq!(LogProbabilities::new(&all, 17, 0).unwrap().top, []);
    }
}
