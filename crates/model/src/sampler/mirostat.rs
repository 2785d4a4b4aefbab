//! Mirostat 2.0 keeps the surprise of the chosen tokens near a target.
//!
//! The surprise of a token of probability p is -log2 p, in bits. Before each choice, the tokens whose surprise is above
//! a limit μ are removed. After the choice, μ changes by the error of the chosen token's surprise, which is computed
//! from its probability among the remaining tokens: μ ← μ - η (surprise - τ). At the beginning μ = 2 τ.
//!
//! Source: Basu et al., Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity (ICLR 2021),
//! <https://arxiv.org/abs/2007.14966>; version 2.0 as in llama.cpp. Not here: version 1, which estimates the shape of
//! the distribution.

use super::candidates::Candidates;
use super::settings::Mirostat;

/// The state between two choices.
pub(super) struct Limit {
    /// The limit μ of the surprise, in bits.
    surprise: f64,
}

impl Limit {
    /// Returns the state before the first choice.
    pub(super) fn new(settings: &Mirostat) -> Self {
        Self { surprise: 2.0 * f64::from(settings.target_entropy) }
    }

    /// Removes the candidates whose surprise is above the limit. Keeps at least the most probable candidate.
    pub(super) fn truncate(&self, candidates: &mut Candidates) {
        candidates.sort();
        let nats = self.surprise * std::f64::consts::LN_2;
        let below = candidates.surprisals().iter().take_while(|surprisal| **surprisal <= nats).count();
        candidates.keep_best(below.max(1));
    }

    /// Changes the limit after a token of this probability was chosen.
    pub(super) fn learn(&mut self, settings: &Mirostat, probability: f64) {
        let error = -probability.log2() - f64::from(settings.target_entropy);
        self.surprise -= f64::from(settings.learning_rate) * error;
    }
}
