//! Causal attention with grouped heads, over keys and values of all earlier positions.

use crate::shared::Shared;
use crate::{Backend, scratch};

/// Sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Numbers a head.
    pub head_size: usize,
    /// Factor of the products of queries and keys.
    pub scale: f32,
}

/// `out` (n × heads × head size) = what `query` (the same) sees of `past` + n positions.
///
/// `keys` and `values` are (past + n) × kv heads × head size; query `i` sees positions up to `past + i`.
pub fn attention(
    backend: &Backend,
    shape: &AttentionShape,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    past: usize,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_size, scale } = *shape;
    let (columns, kv_columns) = (heads * head_size, kv_heads * head_size);
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_size > 0, "heads in equal groups");
    assert!(query.len().is_multiple_of(columns) && out.len() == query.len(), "queries are rows of {columns}");
    let n = query.len() / columns;
    assert!(
        keys.len() == (past + n) * kv_columns && values.len() == keys.len(),
        "keys of {past} + {n} positions"
    );
    let group = heads / kv_heads;
    let operations = backend.operations();
    let out = Shared::new(out);
    backend.pool().run(n * heads, &|task| {
        let (i, head) = (task / heads, task % heads);
        let seen = past + i + 1;
        let query = &query[task * head_size..][..head_size];
        let offset = head / group * head_size;
        let (key, value) = (
            |t| &keys[t * kv_columns + offset..][..head_size],
            |t| &values[t * kv_columns + offset..][..head_size],
        );
        // SAFETY: each task has its own head of its own query.
        let out = unsafe { out.part(task * head_size, head_size) };
        out.fill(0.0);
        scratch::with(seen, |scores| {
            for (t, score) in scores.iter_mut().enumerate() {
                *score = (operations.dot)(query, key(t)) * scale;
            }
            let max = scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
            let mut sum = 0.0;
            for score in scores.iter_mut() {
                *score = (*score - max).exp();
                sum += *score;
            }
            for (t, score) in scores.iter().enumerate() {
                (operations.add_scaled)(score / sum, value(t), out);
            }
        });
    });
}
