//! A norm with loaded weights, and its gradient.

use crate::{Error, Norm, NormKind, Weights, buffers};
use kvant_kernels::{Backend, gradient, ops};

/// A norm with loaded weights.
#[derive(Clone)]
pub struct LoadedNorm {
    kind: NormKind,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    epsilon: f32,
}

impl LoadedNorm {
    /// Reads the weights of `norm`.
    ///
    /// # Errors
    /// See [`Weights::vector`].
    pub fn load(weights: &Weights, norm: &Norm) -> Result<Self, Error> {
        Ok(Self {
            kind: norm.kind,
            weight: weights.vector(&norm.weight.name)?,
            bias: norm.bias.as_ref().map(|bias| weights.vector(&bias.name)).transpose()?,
            epsilon: norm.epsilon,
        })
    }

    /// A norm of vectors of `length` by their root mean square, without a weight.
    pub fn without_weight(length: usize, epsilon: f32) -> Self {
        Self { kind: NormKind::RootMeanSquare, weight: vec![1.0; length], bias: None, epsilon }
    }

    /// Multiplies the weight by `factor`.
    pub fn scaled(mut self, factor: f32) -> Self {
        self.weight.iter_mut().for_each(|weight| *weight *= factor);
        self
    }

    /// Normalizes each row of `x`. A row has the length of the weight.
    pub fn apply(&self, backend: &Backend, x: &[f32]) -> Vec<f32> {
        let mut out = buffers::take(x.len());
        self.apply_into(backend, x, &mut out);
        out
    }

    /// Like [`LoadedNorm::apply`], but writes to `out`.
    pub fn apply_into(&self, backend: &Backend, x: &[f32], out: &mut [f32]) {
        match self.kind {
            NormKind::RootMeanSquare => ops::rms_norm(backend, x, &self.weight, self.epsilon, out),
            NormKind::Layer => {
                ops::layer_norm(backend, x, &self.weight, self.bias.as_deref(), self.epsilon, out);
            }
        }
    }

    /// Adds the gradient at `x` to `out`. `gradient` is the gradient at the norm's output.
    pub fn add_gradient(&self, backend: &Backend, x: &[f32], gradient: &[f32], out: &mut [f32]) {
        match self.kind {
            NormKind::RootMeanSquare => {
                gradient::add_rms_norm(backend, x, &self.weight, self.epsilon, gradient, out);
            }
            NormKind::Layer => {
                gradient::add_layer_norm(backend, x, &self.weight, self.epsilon, gradient, out);
            }
        }
    }
}
