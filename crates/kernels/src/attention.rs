//! Causal attention with grouped heads, over the keys and values of a sequence ([`KeyValues`]).
//!
//! A task takes one head of keys and values and some queries; the heads of queries that share it read it together.
//! Invariant: a query's result is the same whatever stands beside it: other queries, other sequences, other threads.

use crate::cpu::attend::Rows;
use crate::key_values::{self, KvFormat, PAGE};
use crate::shared::Shared;
use crate::{Backend, KeyValues, scratch};

/// Queries of a task.
const QUERIES: usize = 16;

/// Up to so many rows read pages faster than they work on them, so that the next page is asked for ahead of time.
const FEW: usize = 16;

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

/// `out` (n × heads × head size of each sequence, one after the other) = what `query` (the same) sees of its sequence: the
/// i-th of a sequence's n queries sees all positions but the last n − 1 − i.
///
/// Panics unless the sequences have equal numbers of queries, and keys and values for all of them.
pub fn attention(
    backend: &Backend,
    shape: &AttentionShape,
    query: &[f32],
    sequences: &[&KeyValues],
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_size, scale } = *shape;
    let columns = heads * head_size;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_size > 0, "heads in equal groups");
    let each = query.len() / sequences.len().max(1);
    assert!(
        query.len() == each * sequences.len() && each.is_multiple_of(columns) && out.len() == query.len(),
        "queries are rows of {columns}, as many for each sequence"
    );
    let (n, group) = (each / columns, heads / kv_heads);
    for sequence in sequences {
        assert!(
            sequence.len() >= n && sequence.heads() == kv_heads && sequence.head_size() == head_size,
            "keys and values of {n} positions at least"
        );
    }
    let blocks = n.div_ceil(QUERIES);
    let out = Shared::new(out);
    backend.pool().run(sequences.len() * blocks * kv_heads, &|task| {
        // The last queries see most, so they go first.
        let (block, kv_head) = (blocks - 1 - task / kv_heads % blocks, task % kv_heads);
        let (index, first) = (task / (kv_heads * blocks), block * QUERIES);
        let (sequence, count) = (sequences[index], QUERIES.min(n - first));
        let row = |i: usize| (index * n + first + i) * columns + kv_head * group * head_size;
        let visible: Vec<usize> =
            (0..count * group).map(|r| sequence.len() - n + first + r / group + 1).collect();
        let format = sequence.format();
        let (rows, width) = (visible.len(), head_size.next_multiple_of(format.numbers()));
        let mut state = vec![[f32::NEG_INFINITY, 0.0]; rows];
        scratch::with(rows * (head_size + width), |both| {
            let (queries, sums) = both.split_at_mut(rows * head_size);
            for (i, queries) in queries.chunks_exact_mut(group * head_size).enumerate() {
                queries.copy_from_slice(&query[row(i)..][..group * head_size]);
            }
            if format == KvFormat::Q4_0 {
                queries.chunks_exact_mut(head_size).for_each(key_values::turn);
            }
            sums.fill(0.0);
            let pages = visible[rows - 1].div_ceil(PAGE);
            let mut all = Rows {
                head_size,
                scale,
                queries,
                visible: &visible,
                state: &mut state,
                sums,
                next: [&[]; 2],
            };
            for page in 0..pages {
                let ask = rows <= FEW && page + 1 < pages;
                all.next = if ask { sequence.page(page + 1, kv_head).into() } else { [&[]; 2] };
                let (keys, values) = sequence.page(page, kv_head);
                (backend.operations().attend)(format, &mut all, page, keys, values);
            }
            for i in 0..count {
                // SAFETY: each task has its own heads of its own queries.
                let out = unsafe { out.part(row(i), group * head_size) };
                for (head, out) in out.chunks_exact_mut(head_size).enumerate() {
                    let r = i * group + head;
                    let share = 1.0 / state[r][1];
                    out.iter_mut().zip(&sums[r * width..]).for_each(|(out, sum)| *out = sum * share);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    fn shape(head_size: usize) -> AttentionShape {
        AttentionShape { heads: 6, kv_heads: 2, head_size, scale: 0.1 }
    }

    /// Number by number, in double precision: `query` of the last positions.
    fn plain(shape: &AttentionShape, query: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let AttentionShape { heads, kv_heads, head_size, scale } = *shape;
        let (columns, narrow, group) = (heads * head_size, kv_heads * head_size, heads / kv_heads);
        let (n, past) = (query.len() / columns, keys.len() / narrow - query.len() / columns);
        let mut out = Vec::new();
        for (i, head) in (0..n).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let of =
                |all: &[f32], t: usize, k: usize| f64::from(all[t * narrow + head / group * head_size + k]);
            let scores = (0..=past + i).map(|t| {
                let query = |k: usize| f64::from(query[i * columns + head * head_size + k]);
                (f64::from(scale) * (0..head_size).map(|k| query(k) * of(keys, t, k)).sum::<f64>()).exp()
            });
            let scores: Vec<f64> = scores.collect();
            let total: f64 = scores.iter().sum();
            let sum = |k: usize| scores.iter().enumerate().map(|(t, s)| s * of(values, t, k)).sum::<f64>();
            out.extend((0..head_size).map(|k| (sum(k) / total) as f32));
        }
        out
    }

    fn held(format: KvFormat, shape: &AttentionShape, keys: &[f32], values: &[f32]) -> KeyValues {
        let mut held = KeyValues::new(format, shape.kv_heads, shape.head_size).unwrap();
        held.append(keys, values);
        held
    }

    #[test]
    fn every_path_and_format_sees_what_plain_sums_see() {
        for head_size in [72, 64, 20] {
            let shape = shape(head_size);
            let (columns, narrow) = (6 * head_size, 2 * head_size);
            for (n, past) in [(1, 0), (1, 37), (3, 62), (16, 0), (70, 0), (45, 300)] {
                let query = numbers(n * columns, 1);
                let (keys, values) = (numbers((n + past) * narrow, 2), numbers((n + past) * narrow, 3));
                let expected = plain(&shape, &query, &keys, &values);
                for &format in KvFormat::ALL.iter().filter(|format| format.check(head_size).is_ok()) {
                    let held = held(format, &shape, &keys, &values);
                    // What rounding of numbers up to one may come to.
                    let most = match format {
                        KvFormat::F32 => 1e-5,
                        KvFormat::F16 => 1e-3,
                        KvFormat::Q8_0 => 0.01,
                        KvFormat::Q4_0 => 0.15,
                    };
                    for isa in Isa::available() {
                        let mut out = vec![0.0; query.len()];
                        attention(&Backend::new(isa, 3), &shape, &query, &[&held], &mut out);
                        let worst = expected.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(worst < most, "{head_size}, {n} after {past}, {format:?}, {isa:?}: {worst}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_query_sees_the_same_alone_and_beside_others() {
        let shape = shape(64);
        let (columns, narrow, n) = (6 * 64, 2 * 64, 150);
        let (query, keys, values) = (numbers(n * columns, 1), numbers(n * narrow, 2), numbers(n * narrow, 3));
        for &format in KvFormat::ALL {
            for isa in Isa::available() {
                let backend = Backend::new(isa, 2);
                let mut whole = vec![0.0; query.len()];
                attention(&backend, &shape, &query, &[&held(format, &shape, &keys, &values)], &mut whole);
                // Piece by piece, with positions forgotten and put back between.
                for pieces in [1, 7, 64] {
                    let mut found = Vec::new();
                    let mut held = KeyValues::new(format, 2, 64).unwrap();
                    let parts = keys.chunks(pieces * narrow).zip(values.chunks(pieces * narrow));
                    for (query, (keys, values)) in query.chunks(pieces * columns).zip(parts) {
                        let before = held.len();
                        held.append(&vec![3.0; keys.len()], &vec![f32::NAN; keys.len()]);
                        held.truncate(before);
                        held.append(keys, values);
                        let mut out = vec![0.0; query.len()];
                        attention(&backend, &shape, query, &[&held], &mut out);
                        found.extend(out);
                    }
                    assert!(found == whole, "{format:?}, {isa:?}, pieces of {pieces}");
                }
                // Several sequences of other lengths at once.
                let lengths = [1, 20, 64, 65, 150];
                let sequences: Vec<KeyValues> = lengths
                    .iter()
                    .map(|&l| held(format, &shape, &keys[..l * narrow], &values[..l * narrow]))
                    .collect();
                let last: Vec<f32> =
                    lengths.iter().flat_map(|&l| &query[(l - 1) * columns..][..columns]).copied().collect();
                let mut together = vec![0.0; last.len()];
                attention(&backend, &shape, &last, &sequences.iter().collect::<Vec<_>>(), &mut together);
                for (l, found) in lengths.iter().zip(together.chunks(columns)) {
                    assert!(found == &whole[(l - 1) * columns..][..columns], "{format:?}, {isa:?}, {l}");
                }
            }
        }
    }

    #[test]
    fn what_comes_later_never_reaches_what_came_before() {
        let shape = shape(64);
        let (columns, narrow, n) = (6 * 64, 2 * 64, 20);
        let (query, keys) = (numbers(n * columns, 1), numbers(n * narrow, 2));
        let sound = numbers(n * narrow, 3);
        let mut damaged = sound.clone();
        damaged[7 * narrow..8 * narrow].fill(f32::NAN);
        for isa in Isa::available() {
            let run = |values: &[f32]| {
                let mut out = vec![0.0; query.len()];
                let held = held(KvFormat::F32, &shape, &keys, values);
                attention(&Backend::new(isa, 2), &shape, &query, &[&held], &mut out);
                out
            };
            let (before, after) = (run(&sound), run(&damaged));
            assert!(before[..7 * columns] == after[..7 * columns], "{isa:?}");
            assert!(after[7 * columns..].iter().all(|x| x.is_nan()), "{isa:?}");
        }
    }

    #[test]
    fn heads_that_blocks_do_not_divide_are_refused() {
        for &format in KvFormat::ALL {
            let refused = matches!(format, KvFormat::Q8_0 | KvFormat::Q4_0);
            assert_eq!(KeyValues::new(format, 2, 48).is_err(), refused);
            assert!(KeyValues::new(format, 2, 96).is_ok());
        }
    }
}
