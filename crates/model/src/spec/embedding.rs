//! The description of the embedding and of layer embeddings.

use super::{Activation, Norm, Slot};

/// The embedding, before the first block.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// One row per token, `vocabulary × hidden`.
    pub tokens: Slot,
    /// Factor of the token's row.
    pub scale: f32,
    /// One row per position, `context × hidden`, which is added to the token's row.
    pub positions: Option<Slot>,
    /// One row per kind of text, of which row 0 is added to each token's row: BERT's token types.
    pub types: Option<Slot>,
    /// Norm of the sum.
    pub norm: Option<Norm>,
    /// The layer embeddings.
    pub layers: Option<LayerEmbeddings>,
}

impl EmbeddingSpec {
    /// A table of tokens, without a factor, positions or a norm.
    pub fn of(tokens: Slot) -> Self {
        Self { tokens, scale: 1.0, positions: None, types: None, norm: None, layers: None }
    }
}

/// Layer embeddings: for each token, one vector for each block, which the block's [`LayerGate`] reads. They are
/// `scale · (norm(projection_scale · projection x) + table_scale · row)` with the token's embedding x and its row of a
/// table. Both have one vector for each block, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerEmbeddings {
    /// The length of a vector.
    pub width: usize,
    /// The table, `vocabulary × (blocks × width)`.
    pub tokens: Slot,
    /// Factor of the table's row.
    pub table_scale: f32,
    /// The projection of the embedding, `(blocks × width) × hidden`.
    pub projection: Slot,
    /// Factor of the projection's result.
    pub projection_scale: f32,
    /// Norm of each vector of the projection's result.
    pub norm: Norm,
    /// Factor of the sum.
    pub scale: f32,
}

/// Adds a part of a token's layer embedding ([`LayerEmbeddings`]): `output(activation(gate x) · embedding)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGate {
    /// The map of the gate, `width × hidden`.
    pub gate: Slot,
    /// The activation function.
    pub activation: Activation,
    /// The output projection, `hidden × width`.
    pub output: Slot,
}
