//! Chooses a token from logits, by a chain of steps in llama.cpp's order: logit bias, penalties, DRY, top-n-sigma, top-k,
//! typical-p, top-p, min-p, XTC, temperature (fixed or dynamic), random choice. Mirostat replaces all steps between the
//! logit bias and the temperature.
//!
//! `settings` has the settings and their ranges, `chain` the order of the steps. A step changes `Candidates`: logits
//! (`penalties`, `dry`), the set of tokens (`truncation`, `mirostat`) or the temperature (`temperature`).
//!
//! Invariants:
//! - The same seed and logits give the same choice on every machine. At temperature 0 the remaining token with the
//!   largest logit is chosen. On a tie, this is the token with the lower id.
//! - A token that a mask or a bias forbids has no effect on the other tokens, as if the vocabulary did not have it.
//! - A step that is off takes no time and no random number, so settings at their defaults keep their results.
//!
//! Deliberately absent: the text so far. The caller has it, and may cut or replace it between two choices.

mod candidates;
mod chain;
mod dry;
mod error;
mod log_probabilities;
mod mask;
mod mirostat;
mod penalties;
mod settings;
mod temperature;
#[cfg(test)]
mod tests;
mod truncation;

use crate::Tokenizer;
use candidates::Candidates;
use chain::{State, Step};
use dry::Breakers;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use error::SamplerError;
pub use log_probabilities::LogProbabilities;
pub use mask::TokenMask;
pub use settings::{Dry, DynamicTemperature, Mirostat, Sampling, Xtc};

/// Chooses tokens with fixed settings and one sequence of random numbers.
pub struct Sampler {
    chain: Vec<Step>,
    /// The settings of Mirostat, if it is on.
    mirostat: Option<Mirostat>,
    state: State,
}

impl Sampler {
    /// Makes a sampler at the beginning of its sequence of random numbers.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] or [`SamplerError::Breaker`] for a setting outside its range;
    /// [`SamplerError::NeedsTokenizer`] if DRY is on and has sequence breakers ([`Sampler::with_tokenizer`]).
    pub fn new(sampling: Sampling) -> Result<Self, SamplerError> {
        sampling.check()?;
        let chain = chain::chain(&sampling);
        if chain.iter().any(|step| matches!(step, Step::Dry(dry) if !dry.sequence_breakers.is_empty())) {
            return Err(SamplerError::NeedsTokenizer);
        }
        Ok(Self::of(chain, sampling, Breakers::default()))
    }

    /// Like [`Sampler::new`], for all settings. The tokenizer gives the texts of tokens, in which DRY searches for
    /// sequence breakers.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] or [`SamplerError::Breaker`] for a setting outside its range.
    pub fn with_tokenizer(sampling: Sampling, tokenizer: &Tokenizer) -> Result<Self, SamplerError> {
        sampling.check()?;
        let chain = chain::chain(&sampling);
        let breakers = match chain.iter().any(|step| matches!(step, Step::Dry(_))) {
            true => Breakers::new(&sampling.dry.sequence_breakers, tokenizer),
            false => Breakers::default(),
        };
        Ok(Self::of(chain, sampling, breakers))
    }

    fn of(chain: Vec<Step>, sampling: Sampling, breakers: Breakers) -> Self {
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let limit = mirostat::Limit::new(&sampling.mirostat);
        let mirostat = chain.contains(&Step::Mirostat).then_some(sampling.mirostat);
        Self { chain, mirostat, state: State { random, breakers, limit } }
    }

    /// Chooses the next token. `recent` has the earlier tokens, the oldest first.
    ///
    /// # Errors
    /// [`SamplerError::NotFinite`] for NaN or positive infinity; [`SamplerError::Empty`] if there are no logits;
    /// [`SamplerError::NoneAllowed`] if all logits are minus infinity, or if the logit biases forbid all other tokens;
    /// [`SamplerError::BiasedToken`] if a bias is for a token that has no logit.
    pub fn pick(&mut self, logits: &[f32], recent: &[u32]) -> Result<u32, SamplerError> {
        self.choose(&mut Candidates::new(logits, None)?, recent)
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
        self.choose(&mut Candidates::new(logits, Some(mask))?, recent)
    }

    /// Chooses like [`Sampler::pick`], or like [`Sampler::pick_allowed`] if there is a mask. Also returns the log
    /// probabilities among which the token was chosen, after all sampling settings: that of the token, and those of the
    /// `count` most probable candidates.
    ///
    /// # Errors
    /// The errors of [`Sampler::pick_allowed`].
    pub fn pick_with_log_probabilities(
        &mut self,
        logits: &[f32],
        recent: &[u32],
        mask: Option<&TokenMask>,
        count: usize,
    ) -> Result<(u32, LogProbabilities), SamplerError> {
        let mut candidates = Candidates::new(logits, mask)?;
        let token = self.choose(&mut candidates, recent)?;
        Ok((token, candidates.log_probabilities(token, count)))
    }

    /// Applies all steps to the candidates, and chooses one.
    fn choose(&mut self, candidates: &mut Candidates, recent: &[u32]) -> Result<u32, SamplerError> {
        self.run_chain(candidates, recent)?;
        let (token, probability) = candidates.choose(unit(&mut self.state.random));
        if let Some(mirostat) = &self.mirostat {
            self.state.limit.learn(mirostat, probability);
        }
        Ok(token)
    }

    /// Applies all steps.
    fn run_chain(&mut self, candidates: &mut Candidates, recent: &[u32]) -> Result<(), SamplerError> {
        self.chain.iter().try_for_each(|step| step.apply(candidates, recent, &mut self.state))
    }
}

/// Draws a uniform number in [0, 1). It has 53 random bits, so that an `f64` holds it exactly.
fn unit(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
