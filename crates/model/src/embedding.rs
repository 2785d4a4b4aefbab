//! Lookup of the token embedding and of learned positions.

use crate::linear::Linear;
use crate::{Error, LoadedNorm, Slot, Spec, Weights};
use kvant_kernels::{Arithmetic, Backend, Matrix, ops};
use std::sync::Arc;

/// The token embedding, and the position embedding if the network has learned positions.
#[derive(Clone)]
pub struct Embedding {
    backend: Backend,
    tokens: Arc<dyn Matrix>,
    /// Factor of a token's row.
    scale: f32,
    positions: Option<Arc<dyn Matrix>>,
    /// The row of token type 0.
    of_type: Option<Vec<f32>>,
    norm: Option<LoadedNorm>,
}

impl Embedding {
    /// Loads the embedding tables of a network.
    ///
    /// # Errors
    /// Errors of [`Weights::tensor`] or of a kernel.
    pub fn load(weights: &Weights, backend: &Backend) -> Result<Self, Error> {
        let Spec { embedding, output, .. } = weights.spec();
        // The lookup reads single rows and does not need a repacked table. A tied table is also the output head, and is
        // repacked for the matrix product.
        let lookup_backend = backend.clone().with(Arithmetic::Float);
        let token_backend = if output.head.is_tied() { backend } else { &lookup_backend };
        let tokens = Linear::load(weights, token_backend, &embedding.tokens)?.into_weight();
        Self::with_tokens(weights, backend, tokens)
    }

    /// Loads all tables but the token table, which is `tokens`.
    ///
    /// # Errors
    /// See [`Embedding::load`].
    pub fn with_tokens(weights: &Weights, backend: &Backend, tokens: Arc<dyn Matrix>) -> Result<Self, Error> {
        let lookup_backend = backend.clone().with(Arithmetic::Float);
        let load = |slot: &Slot| Ok::<_, Error>(Linear::load(weights, &lookup_backend, slot)?.into_weight());
        let spec = &weights.spec().embedding;
        let positions = spec.positions.as_ref().map(load).transpose()?;
        let types = spec.types.as_ref().map(load).transpose()?;
        let of_type = types.map(|table| {
            let mut row = vec![0.0; table.columns()];
            table.row(0, &mut row);
            row
        });
        let norm = spec.norm.as_ref().map(|norm| LoadedNorm::load(weights, norm)).transpose()?;
        Ok(Self { backend: backend.clone(), tokens, scale: spec.scale, positions, of_type, norm })
    }

    /// The token table, which is also the output head of a network with a tied head.
    pub(crate) fn tokens(&self) -> &Arc<dyn Matrix> {
        &self.tokens
    }

    /// Returns the embeddings of `tokens` at `positions`, tokens × hidden.
    ///
    /// Panics for a token outside the vocabulary, or for a position without a row.
    pub fn rows(&self, tokens: &[u32], positions: impl Iterator<Item = usize>) -> Vec<f32> {
        let hidden = self.tokens.columns();
        let mut x = vec![0.0; tokens.len() * hidden];
        for (row, &token) in x.chunks_exact_mut(hidden).zip(tokens) {
            self.tokens.row(token as usize, row);
        }
        if self.scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= self.scale);
        }
        if let Some(table) = &self.positions {
            let mut learned = vec![0.0; hidden];
            for (row, position) in x.chunks_exact_mut(hidden).zip(positions) {
                table.row(position, &mut learned);
                row.iter_mut().zip(&learned).for_each(|(x, learned)| *x += learned);
            }
        }
        if let Some(of_type) = &self.of_type {
            ops::add_bias(&self.backend, &mut x, of_type);
        }
        match &self.norm {
            Some(norm) => norm.apply(&self.backend, &x),
            None => x,
        }
    }
}
