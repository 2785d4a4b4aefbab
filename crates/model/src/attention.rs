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
                // One read: if the checkpoint has to copy the tensor, the three parts share the copy.
                let tensor = weights.tensor(&slot.weight())?;
                let part = |backend, start, rows| {
                    Linear::of(weights, backend, slot, &tensor, Some(start..start + rows))
                };
                (
                    part(backend, 0, queries)?,
                    part(backend, queries, keys)?,
                    part(&precise, queries + keys, keys)?,
                )
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
                causal: spec.causal,
                window: match spec.span {
                    Span::Full => None,
                    Span::Window(positions) => Some(positions),
                },
                softcap: spec.softcap,
                sinks: spec.sinks.as_ref().map(|sinks| weights.vector(&sinks.name)).transpose()?,
            },
            output: linear(&spec.output)?,
        })
    }

    /// Computes queries, keys and values, before norms and rotation.
    pub fn project(&self, backend: &Backend, input: &[f32]) -> Qkv {
        let [query, key, value] = apply_all(backend, [&self.query, &self.key, &self.value], input);
        Qkv { query, key, value }
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
