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

/// What queries of one sequence may look at: (`past` + n) × kv heads × head size each, of which query `i` sees positions
/// up to `past` + `i`.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Positions before the first query.
    pub past: usize,
}

/// `out` (n × heads × head size of each sequence, one after the other) = what `query` (the same) sees of its sequence.
///
/// Panics unless the sequences have equal numbers of queries, and keys and values for all of them.
pub fn attention(
    backend: &Backend,
    shape: &AttentionShape,
    query: &[f32],
    sequences: &[Seen],
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_size, .. } = *shape;
    let (columns, kv_columns) = (heads * head_size, kv_heads * head_size);
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_size > 0, "heads in equal groups");
    let each = query.len() / sequences.len().max(1);
    assert!(
        query.len() == each * sequences.len() && each.is_multiple_of(columns) && out.len() == query.len(),
        "queries are rows of {columns}, as many for each sequence"
    );
    let n = each / columns;
    for Seen { keys, values, past } in sequences {
        assert!(
            keys.len() == (past + n) * kv_columns && values.len() == keys.len(),
            "keys of {past} + {n} positions"
        );
    }
    if n < MANY || backend.isa() == Isa::Scalar {
        return few(backend, shape, n, query, sequences, out);
    }
    for ((query, out), seen) in query.chunks(each).zip(out.chunks_mut(each)).zip(sequences) {
        many(backend, shape, query, seen, out);
    }
}

/// [`attention`] of few queries of each sequence: the heads that share keys and values read them together.
fn few(
    backend: &Backend,
    shape: &AttentionShape,
    n: usize,
    query: &[f32],
    sequences: &[Seen],
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_size, scale } = *shape;
    let (group, kv_columns) = (heads / kv_heads, kv_heads * head_size);
    let operations = backend.operations();
    let out = Shared::new(out);
    backend.pool().run(sequences.len() * n * kv_heads, &|task| {
        let (row, kv_head) = (task / kv_heads, task % kv_heads);
        let Seen { keys, values, past } = sequences[row / n];
        let seen = past + row % n + 1;
        let at = task * group * head_size;
        let (keys, values) = (&keys[kv_head * head_size..], &values[kv_head * head_size..]);
        let keys = View::new(keys, seen, head_size, kv_columns);
        let values = View::new(values, seen, head_size, kv_columns);
        // SAFETY: each task has its own heads of its own query.
        let out = unsafe { out.part(at, group * head_size) };
        scratch::with(group * seen, |scores| {
            (operations.tiles)(keys, &query[at..][..group * head_size], &mut |t, head, product| {
                scores[head * seen + t] = product * scale;
            });
            scores.chunks_exact_mut(seen).for_each(operations.softmax);
            (operations.weigh)(scores, values, out);
        });
    });
}

/// [`attention`] of many queries: a block of them against all keys at once, and what they weigh against all values.
fn many(
    backend: &Backend,
    shape: &AttentionShape,
    query: &[f32],
    &Seen { keys, values, past }: &Seen,
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

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    const SHAPE: AttentionShape = AttentionShape { heads: 6, kv_heads: 2, head_size: 72, scale: 0.1 };

    /// Number by number, in double precision.
    fn plain(query: &[f32], seen: &Seen) -> Vec<f32> {
        let (n, group) = (query.len() / 432, SHAPE.heads / SHAPE.kv_heads);
        let mut out = Vec::new();
        for (i, head) in (0..n).flat_map(|i| (0..SHAPE.heads).map(move |head| (i, head))) {
            let of = |all: &[f32], t: usize, k: usize| f64::from(all[t * 144 + head / group * 72 + k]);
            let scores = (0..=seen.past + i).map(|t| {
                let query = |k: usize| f64::from(query[i * 432 + head * 72 + k]);
                (f64::from(SHAPE.scale) * (0..72).map(|k| query(k) * of(seen.keys, t, k)).sum::<f64>()).exp()
            });
            let scores: Vec<f64> = scores.collect();
            let total: f64 = scores.iter().sum();
            let sum =
                |k: usize| scores.iter().enumerate().map(|(t, s)| s * of(seen.values, t, k)).sum::<f64>();
            out.extend((0..72).map(|k| (sum(k) / total) as f32));
        }
        out
    }

    #[test]
    fn every_path_sees_what_plain_sums_see() {
        for (n, past) in [(1, 0), (1, 37), (3, 5), (16, 0), (70, 0), (45, 300)] {
            let (query, keys, values) =
                (numbers(n * 432, 1), numbers((n + past) * 144, 2), numbers((n + past) * 144, 3));
            let seen = Seen { keys: &keys, values: &values, past };
            let expected = plain(&query, &seen);
            for isa in Isa::available() {
                let mut out = vec![0.0; query.len()];
                attention(&Backend::new(isa, 3), &SHAPE, &query, &[seen], &mut out);
                let worst = expected.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{n} after {past}, {}: {worst}", isa.name());
            }
        }
    }

    #[test]
    fn sequences_know_nothing_of_each_other() {
        let (query, keys, values) = (numbers(5 * 432, 1), numbers(20 * 144, 2), numbers(20 * 144, 3));
        let seen =
            |past: usize| Seen { keys: &keys[..(past + 1) * 144], values: &values[..(past + 1) * 144], past };
        let sequences = [seen(0), seen(19), seen(3), seen(7), seen(8)];
        for isa in Isa::available() {
            let backend = Backend::new(isa, 2);
            let (mut together, mut alone) = (vec![0.0; query.len()], vec![0.0; query.len()]);
            attention(&backend, &SHAPE, &query, &sequences, &mut together);
            for ((query, seen), out) in query.chunks(432).zip(sequences).zip(alone.chunks_mut(432)) {
                attention(&backend, &SHAPE, query, &[seen], out);
            }
            assert!(together == alone, "{}", isa.name());
        }
    }
}
