//! The choice of a token from logits: penalty, top-k, top-p, min-p, temperature, in llama.cpp's order.
//!
//! Invariant: the same seed and logits give the same choice on every machine. Temperature 0 takes the largest logit,
//! the lower id on a tie.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is wrong with logits or settings.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// A logit that is no number: the weights are broken.
    #[error("logit {token} is {value}; the model's weights are damaged")]
    NotFinite {
        /// Which.
        token: usize,
        /// What it is.
        value: f32,
    },
    /// A setting outside its range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// What it is.
        value: f32,
        /// What it may be.
        expected: &'static str,
    },
    /// There is nothing to choose from.
    #[error("no logits to choose from")]
    Empty,
}

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0 takes the best.
    pub temperature: f32,
    /// Keeps so many of the best; 0 keeps all.
    pub top_k: usize,
    /// Keeps the best that together reach this probability.
    pub top_p: f32,
    /// Keeps what has at least this share of the best one's probability.
    pub min_p: f32,
    /// Divides (or multiplies, below zero) logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Seed of the choice.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed: 0 }
    }
}

/// How many recent tokens the penalty looks at, as llama.cpp's default.
const PENALTY_TOKENS: usize = 64;

/// Chooses tokens.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the beginning of its random sequence.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] for a setting outside its range.
    pub fn new(sampling: Sampling) -> Result<Self, SamplerError> {
        let check = |name, value: f32, low: f32, high: f32, expected| {
            // NaN is outside every range.
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

    /// The next token; `recent` are the tokens before it, oldest first.
    ///
    /// # Errors
    /// [`SamplerError::NotFinite`] for NaN or positive infinity, [`SamplerError::Empty`].
    pub fn pick(&mut self, logits: &[f32], recent: &[u32]) -> Result<u32, SamplerError> {
        if let Some(token) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(SamplerError::NotFinite { token, value: logits[token] });
        }
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
        // 53 random bits make every double of [0, 1) that has them.
        let unit = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = unit * weights.iter().sum::<f64>();
        for (id, weight) in candidates.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return Ok(*id);
            }
        }
        Ok(candidates.last().copied().unwrap_or(best as u32))
    }

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

    /// What top-k, top-p and min-p leave, best first; in order of ids where they leave all.
    fn candidates(&self, logits: &[f32]) -> Vec<u32> {
        let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let Sampling { top_k: keep, top_p, min_p, .. } = self.sampling;
        if keep == 0 && top_p >= 1.0 && min_p <= 0.0 {
            // All are left, so nobody asks for their order.
            return ids;
        }
        if keep > 0 && keep < ids.len() {
            ids.select_nth_unstable_by(keep - 1, better);
            ids.truncate(keep);
        }
        ids.sort_unstable_by(better);
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
