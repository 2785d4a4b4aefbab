//! The values that pass from block to block for the tokens of a step.
//!
//! A stream begins with the residual stream, tokens × hidden. Parts follow that later blocks read beside it: the layer
//! embeddings of each block, a result that waits for the sum with the next one, and the keys and values of the attentions whose states later blocks share. Each part is a
//! matrix with one row for each token. A network without such parts has the residual stream alone.

use crate::Spec;
use std::collections::BTreeMap;
use std::ops::Range;

/// A part of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StreamPart {
    /// The number of elements of all earlier parts, for each token.
    offset: usize,
    /// The number of elements for each token.
    width: usize,
}

impl StreamPart {
    /// The elements of this part in a stream of `tokens` tokens.
    pub fn range(self, tokens: usize) -> Range<usize> {
        tokens * self.offset..tokens * (self.offset + self.width)
    }
}

/// Keys and values in a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StreamStates {
    pub keys: StreamPart,
    pub values: StreamPart,
}

/// The parts of a network's streams.
#[derive(Clone, Debug)]
pub(crate) struct StreamLayout {
    hidden: usize,
    /// The number of elements for each token.
    width: usize,
    /// For each block, its layer embeddings; empty if the network has none.
    pub layer_embeddings: Vec<StreamPart>,
    /// The result of a sublayer that waits for the sum with the next result ([`crate::Sublayer::sum_norm`]). It is 0
    /// between two blocks.
    pub held: Option<StreamPart>,
    /// The keys and values that later blocks share, by the index of their block.
    pub states: BTreeMap<usize, StreamStates>,
}

impl StreamLayout {
    pub fn of(spec: &Spec) -> Self {
        let mut width = spec.hidden;
        let mut part = |elements: usize| {
            width += elements;
            StreamPart { offset: width - elements, width: elements }
        };
        let layers = spec.embedding.layers.as_ref();
        let layer_embeddings =
            layers.map(|layers| spec.blocks.iter().map(|_| part(layers.width)).collect()).unwrap_or_default();
        let sums = spec.blocks.iter().flat_map(|block| &block.sublayers).any(|s| s.sum_norm.is_some());
        let held = sums.then(|| part(spec.hidden));
        let mut states = BTreeMap::new();
        for source in spec.attentions().filter_map(|attention| attention.states_of()) {
            if let Some(attention) = spec.blocks.get(source).and_then(|block| block.attentions().next()) {
                let elements = attention.kv_heads * attention.head_size;
                states
                    .entry(source)
                    .or_insert_with(|| StreamStates { keys: part(elements), values: part(elements) });
            }
        }
        Self { hidden: spec.hidden, width, layer_embeddings, held, states }
    }

    /// The number of elements for each token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of tokens of a stream.
    pub fn tokens(&self, stream: &[f32]) -> usize {
        stream.len() / self.width
    }

    /// The residual stream, tokens × hidden.
    pub fn residual<'a>(&self, stream: &'a [f32]) -> &'a [f32] {
        &stream[..self.tokens(stream) * self.hidden]
    }

    /// The elements of the result that waits for the sum with the next one; empty if no result does.
    pub fn held_range(&self, stream: &[f32]) -> Range<usize> {
        self.held.map_or(0..0, |part| part.range(self.tokens(stream)))
    }

    /// See [`StreamLayout::residual`].
    pub fn residual_mut<'a>(&self, stream: &'a mut [f32]) -> &'a mut [f32] {
        let length = self.residual(stream).len();
        &mut stream[..length]
    }
}
