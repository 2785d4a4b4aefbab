//! An attention with loaded weights.

use crate::linear::{Linear, apply_all};
use crate::norm::LoadedNorm;
use crate::stream::{StreamLayout, StreamStates};
use crate::{Attention, Error, Positions, Projections, Slot, Weights, buffers};
use kvant_kernels::{AttentionShape, Backend, KeyValues, KvFormat, Qkv, ops};

/// An attention with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedAttention {
    pub query: Linear,
    /// `None` if keys and values are those of an earlier block.
    pub key: Option<Linear>,
    /// `None` if the values are the results of the key map.
    pub value: Option<Linear>,
    pub query_norm: Option<LoadedNorm>,
    pub key_norm: Option<LoadedNorm>,
    pub value_norm: Option<LoadedNorm>,
    /// Index of its rotary embedding in [`crate::Spec::ropes`].
    pub rope: Option<usize>,
    pub shape: AttentionShape,
    /// True if the map of the queries also has the rows of a gate.
    pub gated: bool,
    /// The place in the stream of the keys and values of an earlier block that this attention reads.
    pub reads: Option<StreamStates>,
    /// The place in the stream of the keys and values that later blocks read.
    pub keeps: Option<StreamStates>,
    pub output: Linear,
}

impl LoadedAttention {
    /// Loads an attention of block `index`.
    pub fn load(
        weights: &Weights,
        backend: &Backend,
        spec: &Attention,
        layout: &StreamLayout,
        index: usize,
    ) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        // The value map has few rows, and every later token reads its output. It causes a large part of the rounding
        // error with a small part of the multiply-adds. Higher precision is therefore cheap here.
        let precise = backend.clone().precise();
        let (query, key, value) = match &spec.projections {
            Projections::Separate { query, key, value } => {
                (linear(query)?, Some(linear(key)?), Some(Linear::load(weights, &precise, value)?))
            }
            Projections::KeysAsValues { query, key } => {
                (linear(query)?, Some(Linear::load(weights, &precise, key)?), None)
            }
            Projections::Queries { query, .. } => (linear(query)?, None, None),
            Projections::Fused(slot) => {
                let (queries, keys) = (spec.heads * spec.head_size, spec.kv_heads * spec.head_size);
                let parts = [
                    (backend, 0..queries),
                    (backend, queries..queries + keys),
                    (&precise, queries + keys..queries + 2 * keys),
                ];
                let mut maps = Linear::load_parts(weights, slot, parts)?.into_iter();
                let mut next = || maps.next().expect("three parts give three maps");
                (next(), Some(next()), Some(next()))
            }
        };
        let norm = |norm: &Option<_>| norm.as_ref().map(|norm| LoadedNorm::load(weights, norm)).transpose();
        let ropes = weights.spec().ropes();
        Ok(Self {
            query,
            key,
            value,
            query_norm: norm(&spec.query_norm)?,
            key_norm: norm(&spec.key_norm)?,
            value_norm: spec.value_norm.map(|epsilon| LoadedNorm::without_weight(spec.head_size, epsilon)),
            rope: spec.rope.as_ref().and_then(|rope| ropes.iter().position(|other| *other == rope)),
            shape: AttentionShape {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_size: spec.head_size,
                scale: spec.scale,
                causal: spec.causal,
                window: spec.span.window(),
                softcap: spec.softcap,
                sinks: spec.sinks.as_ref().map(|sinks| weights.vector(&sinks.name)).transpose()?,
            },
            gated: spec.gated,
            reads: spec.states_of().and_then(|source| layout.states.get(&source).copied()),
            keeps: layout.states.get(&index).copied(),
            output: linear(&spec.output)?,
        })
    }

    /// Computes queries, keys and values before norms and rotation, and the gate before the sigmoid function. Keys and
    /// values are empty if they are those of an earlier block. The gate is empty if the attention has none.
    pub fn project(&self, backend: &Backend, input: &[f32]) -> (Qkv, Vec<f32>) {
        let qkv = match (&self.key, &self.value) {
            (Some(key), Some(value)) => {
                let [query, key, value] = apply_all(backend, [&self.query, key, value], input);
                Qkv { query, key, value }
            }
            (Some(key), None) => {
                let [query, key] = apply_all(backend, [&self.query, key], input);
                let value = key.clone();
                Qkv { query, key, value }
            }
            (None, _) => {
                let [query] = apply_all(backend, [&self.query], input);
                Qkv { query, key: Vec::new(), value: Vec::new() }
            }
        };
        if !self.gated {
            return (qkv, Vec::new());
        }
        let (size, both) = (self.shape.head_size, qkv.query);
        let half = |start: usize| -> Vec<f32> {
            let heads = both.chunks_exact(2 * size);
            heads.flat_map(|head| &head[start..start + size]).copied().collect()
        };
        let (query, gate) = (half(0), half(size));
        buffers::give(both);
        (Qkv { query, ..qkv }, gate)
    }

    /// Joins the rows of queries and gates in the order of the map.
    pub fn with_gates(&self, query: &[f32], gate: &[f32]) -> Vec<f32> {
        let size = self.shape.head_size;
        let heads = query.chunks_exact(size).zip(gate.chunks_exact(size));
        heads.flat_map(|(query, gate)| query.iter().chain(gate)).copied().collect()
    }

    /// All maps, in the order queries, keys, values, output.
    pub fn maps(&self) -> Vec<&Linear> {
        [&self.query].into_iter().chain(&self.key).chain(&self.value).chain([&self.output]).collect()
    }

    /// Like [`LoadedAttention::maps`].
    pub fn maps_mut(&mut self) -> Vec<&mut Linear> {
        let inner = [&mut self.query].into_iter().chain(&mut self.key).chain(&mut self.value);
        inner.chain([&mut self.output]).collect()
    }

    /// Normalizes queries, keys and values, and rotates queries and keys, in place.
    pub fn norm_and_rotate(&self, backend: &Backend, qkv: &mut Qkv, positions: &Positions) {
        for (norm, x) in self.norms().into_iter().zip([&mut qkv.query, &mut qkv.key, &mut qkv.value]) {
            if let Some(norm) = norm {
                let normed = norm.apply(backend, x);
                buffers::give(std::mem::replace(x, normed));
            }
        }
        self.rotate(backend, qkv, positions);
    }

    /// The norms of queries, keys and values.
    pub fn norms(&self) -> [&Option<LoadedNorm>; 3] {
        [&self.query_norm, &self.key_norm, &self.value_norm]
    }

    /// Rotates queries and keys in place by the angles of their positions.
    pub fn rotate(&self, backend: &Backend, qkv: &mut Qkv, positions: &Positions) {
        let AttentionShape { heads, kv_heads, head_size, .. } = self.shape;
        if let Some(rope) = self.rope {
            let rotation = positions.rotation(rope, head_size);
            ops::rope(backend, &mut qkv.query, heads, &rotation);
            if !qkv.key.is_empty() {
                ops::rope(backend, &mut qkv.key, kv_heads, &rotation);
            }
        }
    }

    /// A KV cache in `f32` for a sequence that runs alone: empty, or with the keys and values of an earlier block.
    /// `stream` is the stream of the sequence.
    pub fn key_values_alone(&self, stream: &[f32], tokens: usize) -> KeyValues {
        let mut states = self.empty_key_values();
        if let Some(StreamStates { keys, values }) = self.reads {
            states.append(&stream[keys.range(tokens)], &stream[values.range(tokens)]);
        }
        states
    }

    /// An empty KV cache in `f32`.
    pub fn empty_key_values(&self) -> KeyValues {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        KeyValues::new(KvFormat::F32, kv_heads, head_size)
    }
}

/// Multiplies `x` by sigmoid(gate), number by number. An empty gate has no effect.
pub(crate) fn multiply_by_sigmoid(x: &mut [f32], gate: &[f32]) {
    x.iter_mut().zip(gate).for_each(|(x, gate)| *x /= 1.0 + (-gate).exp());
}
