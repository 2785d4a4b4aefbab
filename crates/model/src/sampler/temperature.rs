//! The temperature divides the logits. The dynamic temperature depends on the entropy of the candidates.
//!
//! Source: llama.cpp's `src/llama-sampler.cpp`. Dynamic temperature: with n candidates of the probabilities p and the
//! entropy H = -Σ p ln p, the temperature is low + (high - low) (H / ln n)^exponent, where low and high are the
//! temperature minus and plus the range.

use super::candidates::Candidates;

/// Divides the logits by a temperature between `low` and `high` that grows with the entropy of the candidates. With
/// one candidate, changes nothing.
pub(super) fn dynamic(candidates: &mut Candidates, low: f64, high: f64, exponent: f64) {
    let count = candidates.ids().len();
    if count < 2 {
        return;
    }
    let parts = candidates.probabilities().into_iter().zip(candidates.surprisals());
    let entropy: f64 = parts.map(|(p, surprisal)| p * surprisal).sum();
    // Rounding can give a value slightly outside of 0 to 1.
    let normalized = (entropy / (count as f64).ln()).clamp(0.0, 1.0);
    candidates.scale(low + (high - low) * normalized.powf(exponent));
}
