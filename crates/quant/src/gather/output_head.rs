//! The end of a network, after the last residual stream: final norm, logits, gradients, KL divergence of two networks.
//!
//! A network without an output head (an encoder) gives hidden states. Here a hidden state x stands for the normal
//! distribution with the mean x and the variance 1 in every direction. The KL divergence of two such distributions is
//! ½ |x − y|², and the Fisher information of x is the identity.

use crate::Error;
use kvant_core::Tensor;
use kvant_kernels::{Backend, Matrix};
use kvant_model::{LoadedNorm, Weights, load_matrix};
use rayon::prelude::*;
use std::sync::Arc;

/// Maximum number of rows of logits that are in memory at the same time. A row holds the logits of one position.
pub const LOGIT_ROWS: usize = 32;

/// Maximum number of logits that are in memory at the same time while gradients are computed. The logits of a single
/// position may exceed this limit. The limit is large, because the head's matrix is decoded for each group of
/// positions.
pub const GRADIENT_LOGITS: usize = 1 << 23;

/// Returns the positions of a context of `length` tokens at which networks are compared: every `stride`-th position of
/// the second half, without the last position of the context.
pub fn compared_positions(length: usize, stride: usize) -> Vec<usize> {
    (length / 2..length.saturating_sub(1)).step_by(stride).collect()
}

/// The matrix of an output head; `None` for a network without a head.
pub type HeadMatrix = Option<Arc<dyn Matrix>>;

/// The final norm before the output head, loaded.
pub struct Head<'a> {
    weights: &'a Weights,
    backend: &'a Backend,
    norm: Option<LoadedNorm>,
}

impl<'a> Head<'a> {
    /// Loads the norm.
    ///
    /// # Errors
    /// See [`Weights::vector`].
    pub fn new(weights: &'a Weights, backend: &'a Backend) -> Result<Self, Error> {
        let norm = weights.spec().output.norm.as_ref();
        let norm = norm.map(|norm| LoadedNorm::load(weights, norm)).transpose()?;
        Ok(Self { weights, backend, norm })
    }

    /// Loads the matrix of the float network's head.
    ///
    /// # Errors
    /// Errors of reading and of a kernel.
    pub fn float_matrix(&self) -> Result<HeadMatrix, Error> {
        let Some(head) = self.weights.spec().head() else { return Ok(None) };
        self.matrix(&self.weights.tensor(&head.weight())?).map(Some)
    }

    /// Prepares `tensor` as the matrix of the head.
    ///
    /// # Errors
    /// Errors of a kernel.
    pub fn matrix(&self, tensor: &Tensor) -> Result<Arc<dyn Matrix>, Error> {
        let name = self.weights.spec().head().map(kvant_model::Slot::weight).unwrap_or_default();
        Ok(load_matrix(self.backend, tensor, self.weights, &name)?)
    }

    /// Returns the head's input for rows of the residual stream: the normed rows, rows × hidden.
    pub fn states(&self, residual: &[f32]) -> Vec<f32> {
        match &self.norm {
            Some(norm) => norm.apply(self.backend, residual),
            None => residual.to_vec(),
        }
    }

    /// Returns the head's input at some positions of one context, positions × hidden. `stream` is the context's last
    /// stream.
    pub fn states_at(&self, stream: &[f32], positions: &[usize]) -> Vec<f32> {
        let (hidden, residual) = (self.weights.spec().hidden, self.weights.spec().residual(stream));
        let rows = positions.iter().flat_map(|&p| residual[p * hidden..][..hidden].iter().copied());
        self.states(&rows.collect::<Vec<f32>>())
    }

    /// Returns the gradient of Σ −log p(y) with respect to one context's last residual stream, positions × hidden. The
    /// sum runs over all positions. At each position, p is the network's own output distribution, and the label y is a
    /// token that is drawn from p with `seed`. `matrix` is the head's matrix.
    ///
    /// Without a head, the gradient at a hidden state is a vector of random signs, because the mean of g gᵀ over such
    /// vectors g is the identity.
    pub fn gradient(&self, matrix: &HeadMatrix, residual: &[f32], seed: u64) -> Vec<f32> {
        let Some(matrix) = matrix else {
            let mut gradient = vec![0.0; residual.len()];
            self.add_norm_gradient(residual, &random_signs(seed, residual.len()), &mut gradient);
            return gradient;
        };
        let (hidden, vocabulary) = (self.weights.spec().hidden, self.weights.spec().vocabulary);
        let positions = (GRADIENT_LOGITS / vocabulary).clamp(1, residual.len() / hidden);
        let mut gradient = vec![0.0; residual.len()];
        let parts = residual.chunks(positions * hidden).zip(gradient.chunks_mut(positions * hidden));
        for (part, (residual, gradient)) in parts.enumerate() {
            let mut gradients = self.logits_of(&**matrix, &self.states(residual));
            let output = &self.weights.spec().output;
            gradients.par_chunks_exact_mut(vocabulary).enumerate().for_each(|(i, row)| {
                let logits = output.softcap.map(|_| row.to_vec());
                replace_by_gradient(row, uniform(seed, part * positions + i));
                output.backward(&logits.unwrap_or_default(), row);
            });
            let mut states = vec![0.0; residual.len()];
            matrix.add_transposed(&gradients, &mut states);
            self.add_norm_gradient(residual, &states, gradient);
        }
        gradient
    }

    /// Adds the gradient at rows of the residual stream to `out`. `gradient` is the gradient at the normed rows.
    fn add_norm_gradient(&self, residual: &[f32], gradient: &[f32], out: &mut [f32]) {
        match &self.norm {
            Some(norm) => norm.add_gradient(self.backend, residual, gradient, out),
            None => out.iter_mut().zip(gradient).for_each(|(out, x)| *out += x),
        }
    }

    /// Computes the logits of normed states (rows × hidden) with the head's matrix `matrix`, rows × vocabulary. Without a
    /// head, the result is the states.
    pub fn logits(&self, matrix: &HeadMatrix, states: &[f32]) -> Vec<f32> {
        matrix.as_ref().map_or_else(|| states.to_vec(), |matrix| self.logits_of(&**matrix, states))
    }

    fn logits_of(&self, matrix: &dyn Matrix, states: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; states.len() / matrix.columns() * matrix.rows()];
        matrix.multiply(states, &mut logits);
        self.weights.spec().output.apply(self.backend, &mut logits);
        logits
    }

    /// Returns the sum of KL(p ‖ q) over all positions. `p` and `q` are rows of logits, or of hidden states if the
    /// network has no head.
    pub fn divergence(&self, p: &[f32], q: &[f32]) -> f64 {
        if self.weights.spec().head().is_none() {
            return p.iter().zip(q).map(|(p, q)| f64::from(p - q).powi(2)).sum::<f64>() / 2.0;
        }
        let vocabulary = self.weights.spec().vocabulary;
        let rows = p.chunks_exact(vocabulary).zip(q.chunks_exact(vocabulary));
        rows.map(|(p, q)| kvant_eval::kl_divergence(p, q)).sum()
    }
}

/// Returns a deterministic pseudo-random value in [0, 1) for a position of a context.
fn uniform(seed: u64, position: usize) -> f32 {
    let bytes: Vec<u8> = [seed, position as u64].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bits = u32::from_le_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().expect("32 bytes"));
    (bits >> 8) as f32 / (1 << 24) as f32
}

/// Returns `count` deterministic pseudo-random signs, each 1 or −1.
fn random_signs(seed: u64, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count.div_ceil(8)];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    (0..count).map(|i| if bytes[i / 8] >> (i % 8) & 1 == 0 { 1.0 } else { -1.0 }).collect()
}

/// Replaces logits by p − e_y, the gradient of −log p(y). p is the softmax of the logits. e_y is 1 at the label y and 0
/// elsewhere. The label y is drawn from p with `uniform` in [0, 1).
fn replace_by_gradient(logits: &mut [f32], uniform: f32) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = logits.iter().map(|x| f64::from(*x)).sum();
    let mut remaining = f64::from(uniform) * sum;
    let drawn = logits.iter().position(|x| {
        remaining -= f64::from(*x);
        remaining < 0.0
    });
    logits.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
    if let Some(drawn) = drawn {
        logits[drawn] -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_tokens_are_as_frequent_as_expected_and_gradients_cancel() {
        let logits = [0.3f32, -1.0, 2.0, f32::NEG_INFINITY, 0.0];
        let sum: f32 = logits.iter().map(|x| x.exp()).sum();
        let expected = logits.map(|x| x.exp() / sum);
        const DRAWS: usize = 1000;
        let mut frequencies = [0usize; 5];
        for i in 0..DRAWS {
            let mut gradient = logits;
            replace_by_gradient(&mut gradient, i as f32 / DRAWS as f32);
            let drawn = gradient.iter().position(|x| *x < 0.0).unwrap();
            frequencies[drawn] += 1;
            for (j, (found, share)) in gradient.iter().zip(expected).enumerate() {
                assert!((found + f32::from(u8::from(j == drawn)) - share).abs() < 1e-6, "{gradient:?}");
            }
        }
        for (frequency, share) in frequencies.iter().zip(expected) {
            assert!(
                (*frequency as f32 / DRAWS as f32 - share).abs() < 0.002,
                "{frequencies:?}, {expected:?}"
            );
        }
    }

    #[test]
    fn uniform_values_differ_by_position_and_repeat() {
        let all: Vec<f32> = (0..64).map(|i| uniform(i as u64 / 8, i % 8)).collect();
        assert!(all.iter().all(|x| (0.0..1.0).contains(x)));
        assert!((0.3..0.7).contains(&(all.iter().sum::<f32>() / 64.0)), "{all:?}");
        assert_eq!(all, (0..64).map(|i| uniform(i as u64 / 8, i % 8)).collect::<Vec<_>>());
    }
}
