//! An attention with loaded weights.

use crate::linear::{Linear, apply_all};
use crate::norm::LoadedNorm;
use crate::{Attention, Error, Positions, Projections, Slot, Span, Weights, buffers};
use kvant_kernels::{AttentionShape, Backend, KeyValues, KvFormat, Qkv, ops};

/// An attention with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedAttention {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub query_norm: Option<LoadedNorm>,
    pub key_norm: Option<LoadedNorm>,
    /// Index of its rotary embedding in [`crate::Spec::ropes`].
    pub rope: Option<usize>,
    pub shape: AttentionShape,
    /// True if the map of the queries also has the rows of a gate.
    pub gated: bool,
    pub output: Linear,
}

impl LoadedAttention {
    pub fn load(weights: &Weights, backend: &Backend, spec: &Attention) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        // The value map has few rows, and every later token reads its output. It causes a large part of the rounding
        // error with a small part of the multiply-adds. Higher precision is therefore cheap here.
        let precise = backend.clone().precise();
        let (query, key, value) = match &spec.projections {
            Projections::Separate { query, key, value } => {
                (linear(query)?, linear(key)?, Linear::load(weights, &precise, value)?)
            }
            Projections::Fused(slot) => {
                let (queries, keys) = (spec.heads * spec.head_size, spec.kv_heads * spec.head_size);
                let parts = [
                    (backend, 0..queries),
                    (backend, queries..queries + keys),
                    (&precise, queries + keys..queries + 2 * keys),
                ];
                let mut maps = Linear::load_parts(weights, slot, parts)?.into_iter();
                let mut next = || maps.next().expect("three parts give three maps");
                (next(), next(), next())
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
            rope: spec.rope.as_ref().and_then(|rope| ropes.iter().position(|other| *other == rope)),
            shape: AttentionShape {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_size: spec.head_size,
                scale: spec.scale,
                window: match spec.span {
                    Span::Full => None,
                    Span::Window(positions) => Some(positions),
                },
                softcap: spec.softcap,
                sinks: spec.sinks.as_ref().map(|sinks| weights.vector(&sinks.name)).transpose()?,
            },
            gated: spec.gated,
            output: linear(&spec.output)?,
        })
    }

    /// Computes queries, keys and values before norms and rotation, and the gate before the sigmoid function. The gate is
    /// empty if the attention has none.
    pub fn project(&self, backend: &Backend, input: &[f32]) -> (Qkv, Vec<f32>) {
        let [query, key, value] = apply_all(backend, [&self.query, &self.key, &self.value], input);
        if !self.gated {
            return (Qkv { query, key, value }, Vec::new());
        }
        let size = self.shape.head_size;
        let half = |start: usize| -> Vec<f32> {
            let heads = query.chunks_exact(2 * size);
            heads.flat_map(|head| &head[start..start + size]).copied().collect()
        };
        let (own, gate) = (half(0), half(size));
        buffers::give(query);
        (Qkv { query: own, key, value }, gate)
    }

    /// Joins the rows of queries and gates in the order of the map.
    pub fn with_gates(&self, query: &[f32], gate: &[f32]) -> Vec<f32> {
        let size = self.shape.head_size;
        let heads = query.chunks_exact(size).zip(gate.chunks_exact(size));
        heads.flat_map(|(query, gate)| query.iter().chain(gate)).copied().collect()
    }

    /// Normalizes and rotates queries and keys in place.
    pub fn norm_and_rotate(&self, backend: &Backend, qkv: &mut Qkv, positions: &Positions) {
        for (norm, x) in [(&self.query_norm, &mut qkv.query), (&self.key_norm, &mut qkv.key)] {
            if let Some(norm) = norm {
                let normed = norm.apply(backend, x);
                buffers::give(std::mem::replace(x, normed));
            }
        }
        self.rotate(backend, qkv, positions);
    }

    /// Rotates queries and keys in place by the angles of their positions.
    pub fn rotate(&self, backend: &Backend, qkv: &mut Qkv, positions: &Positions) {
        let AttentionShape { heads, kv_heads, head_size, .. } = self.shape;
        if let Some(rope) = self.rope {
            let rotation = positions.rotation(rope, head_size);
            ops::rope(backend, &mut qkv.query, heads, &rotation);
            ops::rope(backend, &mut qkv.key, kv_heads, &rotation);
        }
    }

    /// An empty KV cache in `f32`.
    pub fn empty_key_values(&self) -> KeyValues {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        KeyValues::new(KvFormat::F32, kv_heads, head_size).expect("numbers as they are fit any head")
    }
}

/// Multiplies `x` by sigmoid(gate), number by number. An empty gate has no effect.
pub(crate) fn multiply_by_sigmoid(x: &mut [f32], gate: &[f32]) {
    x.iter_mut().zip(gate).for_each(|(x, gate)| *x /= 1.0 + (-gate).exp());
}
