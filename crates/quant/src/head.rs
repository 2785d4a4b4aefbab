//! What a network makes of its last residual stream: normed states, logits, and how far two networks' logits are apart.

use crate::Error;
use kvant_kernels::{Backend, Matrix, ops};
use kvant_model::Weights;

/// Rows of logits that are in memory at once.
pub const LOGIT_ROWS: usize = 32;

/// The norm before the head, ready to be used.
pub struct Head<'a> {
    weights: &'a Weights,
    backend: &'a Backend,
    norm: Vec<f32>,
}

impl<'a> Head<'a> {
    /// Reads the norm.
    ///
    /// # Errors
    /// As [`Weights::vector`].
    pub fn new(weights: &'a Weights, backend: &'a Backend) -> Result<Self, Error> {
        Ok(Self { weights, backend, norm: weights.vector(&weights.spec().output_norm.name)? })
    }

    /// What the head reads, for rows of the residual stream.
    pub fn states(&self, residual: &[f32]) -> Vec<f32> {
        let mut x = vec![0.0; residual.len()];
        ops::rms_norm(self.backend, residual, &self.norm, self.weights.spec().norm_epsilon, &mut x);
        x
    }

    /// The same at some positions alone.
    pub fn states_at(&self, residual: &[f32], positions: &[usize]) -> Vec<f32> {
        let hidden = self.weights.spec().hidden;
        let rows = positions.iter().flat_map(|&p| residual[p * hidden..][..hidden].iter().copied());
        self.states(&rows.collect::<Vec<f32>>())
    }

    /// Sum of KL(p ‖ q) over rows of logits.
    pub fn divergence(&self, p: &[f32], q: &[f32]) -> f64 {
        let vocabulary = self.weights.spec().vocabulary;
        let rows = p.chunks_exact(vocabulary).zip(q.chunks_exact(vocabulary));
        rows.map(|(p, q)| kvant_eval::kl_divergence(p, q)).sum()
    }
}

/// Logits of normed states.
pub fn logits(matrix: &dyn Matrix, states: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; states.len() / matrix.columns() * matrix.rows()];
    matrix.multiply(states, &mut out);
    out
}
