//! The ends of a network as plain data: the embedding before the first block; norm, head and the vector of a text after the
//! last block.

use super::{Norm, Slot};
use kvant_kernels::{Backend, ops};

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
}

impl EmbeddingSpec {
    /// A table of tokens, without a factor, positions or a norm.
    pub fn of(tokens: Slot) -> Self {
        Self { tokens, scale: 1.0, positions: None, types: None, norm: None }
    }
}

/// The linear map that computes logits from hidden states.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// No map: the network computes hidden states, but no logits.
    None,
    /// The token embedding.
    Tied,
    /// A map of its own, `vocabulary × hidden`.
    Own(Slot),
}

impl Head {
    /// The map, if it is not the token embedding.
    pub fn own(&self) -> Option<&Slot> {
        match self {
            Self::Own(slot) => Some(slot),
            Self::None | Self::Tied => None,
        }
    }

    /// True if the token embedding is the output head.
    pub fn is_tied(&self) -> bool {
        *self == Self::Tied
    }
}

/// The output norm and the output head, after the last block.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSpec {
    /// Norm of the last residual stream.
    pub norm: Option<Norm>,
    /// The output head.
    pub head: Head,
    /// Factor of the head's result.
    pub scale: f32,
    /// The soft cap c of the logits: a logit x becomes c · tanh(x / c), after the factor. Above 0.
    pub softcap: Option<f32>,
}

impl OutputSpec {
    /// Applies the factor and the soft cap to the head's result.
    pub fn apply(&self, backend: &Backend, logits: &mut [f32]) {
        if self.scale != 1.0 {
            logits.iter_mut().for_each(|x| *x *= self.scale);
        }
        if let Some(cap) = self.softcap {
            ops::softcap(backend, logits, cap);
        }
    }

    /// Replaces the gradient at the logits by the gradient at the head's result. `logits` are the results of
    /// [`OutputSpec::apply`]; without a soft cap they are not read.
    pub fn backward(&self, logits: &[f32], gradient: &mut [f32]) {
        if let Some(cap) = self.softcap {
            for (gradient, logit) in gradient.iter_mut().zip(logits) {
                *gradient *= 1.0 - (logit / cap) * (logit / cap);
            }
        }
        if self.scale != 1.0 {
            gradient.iter_mut().for_each(|x| *x *= self.scale);
        }
    }
}

/// The vector of a text that pooling takes from the hidden states of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token.
    First,
    /// The last token.
    Last,
}

/// The vector of a whole text: `normalize(dense(pooling(hidden states)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextVector {
    /// The pooling.
    pub pooling: Pooling,
    /// Linear maps after the pooling, in order of computation.
    pub dense: Vec<Slot>,
    /// True if the vector is divided by its length.
    pub normalized: bool,
    /// The largest number of tokens of a text. Longer texts are cut.
    pub longest: usize,
}

impl TextVector {
    /// The length of a vector, for a network of width `hidden`.
    pub fn length(&self, hidden: usize) -> usize {
        self.dense.last().map_or(hidden, |map| map.rows)
    }

    /// Returns the input length of a linear map that is not the output length of the map before it, as text.
    pub(crate) fn misfit(&self, hidden: usize) -> Option<String> {
        let widths = std::iter::once(hidden).chain(self.dense.iter().map(|map| map.rows));
        let mut maps = self.dense.iter().zip(widths);
        maps.find(|(map, width)| map.columns != *width).map(|(map, _)| map.columns.to_string())
    }
}
