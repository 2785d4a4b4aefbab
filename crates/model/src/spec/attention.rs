//! The description of an attention.

use super::{Norm, Slot, VectorSlot};
use crate::Rope;

/// The linear maps that compute queries, keys and values.
#[derive(Clone, Debug, PartialEq)]
pub enum Projections {
    /// One map each.
    Separate {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// Keys, `kv_heads × head_size` rows.
        key: Slot,
        /// Values, `kv_heads × head_size` rows.
        value: Slot,
    },
    /// One map for all three; its rows are in the order queries, keys, values.
    Fused(Slot),
    /// The values are the results of the key map, without the norm and the rotation of the keys.
    KeysAsValues {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// Keys and values, `kv_heads × head_size` rows.
        key: Slot,
    },
    /// Only queries. The keys and values are those of the only attention of an earlier block.
    Queries {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// The index of the earlier block, whose keys and values have the same sizes.
        states_of: usize,
    },
}

impl Projections {
    /// The maps, in the order queries, keys, values.
    pub fn slots(&self) -> Vec<&Slot> {
        match self {
            Self::Separate { query, key, value } => vec![query, key, value],
            Self::Fused(slot) => vec![slot],
            Self::KeysAsValues { query, key } => vec![query, key],
            Self::Queries { query, .. } => vec![query],
        }
    }
}

/// The positions that an attention reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All positions.
    Full,
    /// This number of positions: the current position and the positions directly before it. Above 0. An attention that
    /// is not causal also reads as many positions after the current position as before it.
    Window(usize),
}

impl Span {
    /// The length of the window; `None` for all positions.
    pub fn window(self) -> Option<usize> {
        match self {
            Self::Full => None,
            Self::Window(positions) => Some(positions),
        }
    }
}

/// Self-attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The number of query heads.
    pub heads: usize,
    /// The number of key heads and of value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_size: usize,
    /// Queries, keys and values.
    pub projections: Projections,
    /// True if the map of the queries has, for each head, the rows of the query and then as many rows of a gate. The
    /// result of the head is multiplied by sigmoid(gate).
    pub gated: bool,
    /// Norm of each head of the queries, or of all heads together, before the rotary embedding.
    pub query_norm: Option<Norm>,
    /// Norm of each head of the keys, or of all heads together, before the rotary embedding.
    pub key_norm: Option<Norm>,
    /// Norm of each head of the values by its root mean square, without a weight: the number that is added to the mean
    /// square.
    pub value_norm: Option<f32>,
    /// Rotary embedding of queries and keys.
    pub rope: Option<Rope>,
    /// True if a position reads no position after itself.
    pub causal: bool,
    /// The positions that a position reads.
    pub span: Span,
    /// Factor of the dot products of queries and keys: the scores.
    pub scale: f32,
    /// The soft cap c of the scores: a score x becomes c · tanh(x / c). Above 0.
    pub softcap: Option<f32>,
    /// For each query head, one more score, without a key and with a value of zeros.
    pub sinks: Option<VectorSlot>,
    /// The output projection.
    pub output: Slot,
}

impl Attention {
    /// The index of the earlier block whose keys and values this attention reads; `None` if it has its own.
    pub fn states_of(&self) -> Option<usize> {
        match self.projections {
            Projections::Queries { states_of, .. } => Some(states_of),
            _ => None,
        }
    }
}
