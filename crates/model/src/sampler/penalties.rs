//! Steps that change logits: the logit bias, and the penalties for tokens of the recent text.

use super::SamplerError;
use super::candidates::Candidates;

/// Adds a number to the logits of some tokens. Minus infinity forbids a token. If a token occurs more than once, the
/// sum of its biases is added.
///
/// # Errors
/// [`SamplerError::BiasedToken`] for a token outside of the vocabulary.
pub(super) fn bias(candidates: &mut Candidates, biases: &[(u32, f32)]) -> Result<(), SamplerError> {
    let vocabulary = candidates.vocabulary();
    for &(token, bias) in biases {
        if token as usize >= vocabulary {
            return Err(SamplerError::BiasedToken { token, vocabulary });
        }
        if bias.is_finite() {
            candidates.change(token, |logit| logit + bias);
        }
    }
    let mut forbidden: Vec<u32> = biases.iter().filter(|(_, bias)| !bias.is_finite()).map(|b| b.0).collect();
    if !forbidden.is_empty() {
        forbidden.sort_unstable();
        candidates.ban(|id| forbidden.binary_search(&id).is_ok());
    }
    Ok(())
}

/// Lowers the logits of the tokens in `window`. A positive logit is divided by `repeat`, another logit is multiplied by
/// it. Then `presence`, and `frequency` for each occurrence, are subtracted.
///
/// Source: Keskar et al., CTRL (2019), <https://arxiv.org/abs/1909.05858>, equation 2 for the repeat penalty, with
/// llama.cpp's rule for negative logits; OpenAI's API for `frequency_penalty` and `presence_penalty`.
pub(super) fn penalize(
    candidates: &mut Candidates,
    window: &[u32],
    repeat: f32,
    frequency: f32,
    presence: f32,
) {
    let mut seen = window.to_vec();
    seen.sort_unstable();
    for same in seen.chunk_by(|a, b| a == b) {
        candidates.change(same[0], |logit| {
            let logit = if logit > 0.0 { logit / repeat } else { logit * repeat };
            logit - (same.len() as f32 * frequency + presence)
        });
    }
}
