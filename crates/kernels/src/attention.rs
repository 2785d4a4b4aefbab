//! Causal attention with grouped heads, over keys and values of all earlier positions.

use crate::dense::{View, product};
use crate::shared::Shared;
use crate::{Backend, Isa, scratch};

/// From this many queries on, products of whole blocks pay.
const MANY: usize = 16;
/// Queries of a block.
const BLOCK: usize = 32;

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
    if n >= MANY && backend.isa() != Isa::Scalar {
        return many(backend, shape, query, keys, values, past, out);
    }
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
            (operations.softmax)(scores);
            for (t, score) in scores.iter().enumerate() {
                (operations.add_scaled)(*score, value(t), out);
            }
        });
    });
}

/// [`attention`] of many queries: a block of them against all keys at once, and what they weigh against all values.
fn many(
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
    let (n, operations) = (query.len() / columns, backend.operations());
    let out = Shared::new(out);
    backend.pool().run(n.div_ceil(BLOCK) * heads, &|task| {
        // The last blocks see most, so they go first.
        let (block, head) = (n.div_ceil(BLOCK) - 1 - task / heads, task % heads);
        let start = block * BLOCK;
        let count = BLOCK.min(n - start);
        let seen = past + start + count;
        let offset = head / (heads / kv_heads) * head_size;
        let queries = View::new(&query[start * columns + head * head_size..], count, head_size, columns);
        let key = View::new(&keys[offset..], seen, head_size, kv_columns).transposed();
        let value = View::new(&values[offset..], seen, head_size, kv_columns);
        scratch::with(count * (seen + head_size), |both| {
            let (scores, sums) = both.split_at_mut(count * seen);
            product(scores, seen, 0.0, scale, queries, key);
            for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                let (seen, hidden) = row.split_at_mut(past + start + i + 1);
                (operations.softmax)(seen);
                hidden.fill(0.0);
            }
            product(sums, head_size, 0.0, 1.0, View::new(scores, count, seen, seen), value);
            for (i, sum) in sums.chunks_exact(head_size).enumerate() {
                // SAFETY: each task has its own head of its own queries.
                let out = unsafe { out.part((start + i) * columns + head * head_size, head_size) };
                out.copy_from_slice(sum);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_queries_see_what_few_see() {
        let shape = AttentionShape { heads: 6, kv_heads: 2, head_size: 24, scale: 0.2 };
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        for (n, past) in [(16, 0), (70, 0), (45, 300)] {
            let (query, keys, values) =
                (numbers(n * 144, 1), numbers((n + past) * 48, 2), numbers((n + past) * 48, 3));
            let run = |isa: Isa| {
                let mut out = vec![0.0; query.len()];
                attention(&Backend::new(isa, 3), &shape, &query, &keys, &values, past, &mut out);
                out
            };
            let (oracle, found) = (run(Isa::Scalar), run(Isa::best()));
            let worst = oracle.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{n} after {past}: {worst}");
        }
    }
}
