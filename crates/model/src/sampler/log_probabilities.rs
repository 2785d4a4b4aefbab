//! The model's own log probabilities. Masks and sampling settings do not change them.

use super::SamplerError;
use super::candidates::{best_first, check_finite};

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
        logits.iter().enumerate().try_for_each(|(id, x)| check_finite(id, *x))?;
        let chosen = *logits.get(token as usize).ok_or(SamplerError::Empty)?;
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
        let log = |x: f32| (f64::from(x - top) - sum.ln()) as f32;
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        best_first(logits, &mut ids, count);
        let top = ids.into_iter().map(|id| (id, log(logits[id as usize]))).collect();
        Ok(Self { token: log(chosen), top })
    }
}
