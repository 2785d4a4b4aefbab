//! Lookup of the token embedding, of learned positions and of layer embeddings.

use crate::linear::Linear;
use crate::stream::StreamLayout;
use crate::{Error, LayerEmbeddings, LoadedNorm, Slot, Spec, Weights};
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
    layers: Option<LoadedLayers>,
    layout: StreamLayout,
}

/// Layer embeddings with loaded weights.
#[derive(Clone)]
struct LoadedLayers {
    backend: Backend,
    tokens: Arc<dyn Matrix>,
    table_scale: f32,
    projection: Linear,
    projection_scale: f32,
    norm: LoadedNorm,
    scale: f32,
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
        let layers = |spec: &LayerEmbeddings| -> Result<LoadedLayers, Error> {
            Ok(LoadedLayers {
                backend: backend.clone(),
                tokens: load(&spec.tokens)?,
                table_scale: spec.table_scale,
                projection: Linear::load(weights, &backend.clone().precise(), &spec.projection)?,
                projection_scale: spec.projection_scale,
                norm: LoadedNorm::load(weights, &spec.norm)?,
                scale: spec.scale,
            })
        };
        let layers = spec.layers.as_ref().map(layers).transpose()?;
        let layout = StreamLayout::of(weights.spec());
        let backend = backend.clone();
        Ok(Self { backend, tokens, scale: spec.scale, positions, of_type, norm, layers, layout })
    }

    /// The parts of the network's streams.
    pub(crate) fn layout(&self) -> &StreamLayout {
        &self.layout
    }

    /// The token table, which is also the output head of a network with a tied head.
    pub(crate) fn tokens(&self) -> &Arc<dyn Matrix> {
        &self.tokens
    }

    /// Returns the stream of `tokens` at `positions` before the first block, tokens × [`Spec::stream_width`]: their
    /// embeddings, their layer embeddings, and zeros for the states that blocks write.
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
        if let Some(norm) = &self.norm {
            x = norm.apply(&self.backend, &x);
        }
        let embeddings = self.layers.as_ref().map(|layers| layers.rows(tokens, &x)).unwrap_or_default();
        x.resize(tokens.len() * self.layout.width(), 0.0);
        let parts = &self.layout.layer_embeddings;
        let columns = (embeddings.len() / tokens.len().max(1)).max(1);
        let width = columns / parts.len().max(1);
        for (block, part) in parts.iter().enumerate() {
            let rows = x[part.range(tokens.len())].chunks_exact_mut(width);
            for (row, embeddings) in rows.zip(embeddings.chunks_exact(columns)) {
                row.copy_from_slice(&embeddings[block * width..][..width]);
            }
        }
        x
    }
}

impl LoadedLayers {
    /// Returns the layer embeddings of `tokens`, tokens × (blocks × width). `x` are the embeddings of the tokens.
    fn rows(&self, tokens: &[u32], x: &[f32]) -> Vec<f32> {
        let mut projected = self.projection.apply(&self.backend, &self.projection.input(x));
        projected.iter_mut().for_each(|x| *x *= self.projection_scale);
        let mut sums = self.norm.apply(&self.backend, &projected);
        let columns = self.tokens.columns();
        let mut row = vec![0.0; columns];
        for (sums, &token) in sums.chunks_exact_mut(columns).zip(tokens) {
            self.tokens.row(token as usize, &mut row);
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum = (*sum + self.table_scale * x) * self.scale);
        }
        sums
    }
}
