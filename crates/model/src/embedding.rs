//! Token embedding and learned positions, ready to be read.

use crate::linear::Linear;
use crate::{Error, Slot, Spec, Weights};
use kvant_kernels::{Arithmetic, Backend, Matrix};
use std::sync::Arc;

/// What stands before the first block.
#[derive(Clone)]
pub struct Embedding {
    tokens: Arc<dyn Matrix>,
    positions: Option<Arc<dyn Matrix>>,
}

impl Embedding {
    /// Prepares the tables of a network.
    ///
    /// # Errors
    /// What [`Weights::tensor`] or a kernel says.
    pub fn load(weights: &Weights, backend: &Backend) -> Result<Self, Error> {
        let Spec { embedding, output, .. } = weights.spec();
        // Rows are read one by one: a table is repacked only where it is the head too.
        let rows = backend.clone().with(Arithmetic::Float);
        let reader = if output.head.is_some() { &rows } else { backend };
        let tokens = Linear::load(weights, reader, &embedding.tokens)?.into_weight();
        Self::with_tokens(weights, backend, tokens)
    }

    /// The same with another table of the tokens.
    ///
    /// # Errors
    /// As [`Embedding::load`].
    pub fn with_tokens(weights: &Weights, backend: &Backend, tokens: Arc<dyn Matrix>) -> Result<Self, Error> {
        let rows = backend.clone().with(Arithmetic::Float);
        let load = |slot: &Slot| Ok::<_, Error>(Linear::load(weights, &rows, slot)?.into_weight());
        let positions = weights.spec().embedding.positions.as_ref().map(load).transpose()?;
        Ok(Self { tokens, positions })
    }

    /// The token table, which is the head too where a network has no other.
    pub(crate) fn tokens(&self) -> &Arc<dyn Matrix> {
        &self.tokens
    }

    /// The rows of tokens at `positions`, tokens × hidden.
    ///
    /// Panics for a token outside the vocabulary, or a position that has no row.
    pub fn rows(&self, tokens: &[u32], positions: impl Iterator<Item = usize>) -> Vec<f32> {
        let width = self.tokens.columns();
        let mut x = vec![0.0; tokens.len() * width];
        for (row, &token) in x.chunks_exact_mut(width).zip(tokens) {
            self.tokens.row(token as usize, row);
        }
        if let Some(table) = &self.positions {
            let mut learned = vec![0.0; width];
            for (row, position) in x.chunks_exact_mut(width).zip(positions) {
                table.row(position, &mut learned);
                row.iter_mut().zip(&learned).for_each(|(x, learned)| *x += learned);
            }
        }
        x
    }
}
