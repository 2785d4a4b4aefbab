//! Causal attention with grouped heads, over the keys and values of a sequence ([`KeyValues`]).
//!
//! A task takes one head of keys and values and some queries; the heads of queries that share it read it together.
//! Invariant: a query's result is the same whatever stands beside it: other queries, other sequences, other threads.

use crate::cpu::generic::attention_kernel::QueryRows;
use crate::key_values::{self, Seen};
use crate::kv_format::PAGE;
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

/// The input of attention, or its gradient: queries, tokens × heads × head size, one sequence after the other; keys and
/// values, tokens × kv heads × head size.
pub struct Qkv {
    /// Queries.
    pub query: Vec<f32>,
    /// Keys.
    pub key: Vec<f32>,
    /// Values.
    pub value: Vec<f32>,
}

/// The keys and values of one sequence, and how many tokens of it attention reads.
pub struct Ragged<'a> {
    /// Keys and values so far.
    pub states: &'a mut KeyValues,
    /// Tokens that come next.
    pub tokens: usize,
}

/// Appends keys and values to their sequences, and `out` (as large as the queries) = what the queries see: each its sequence
/// up to its own position. Where the last page is held in more bits, page by page: a query sees its own page so.
///
/// Panics unless the sequences' tokens are as many as the queries, keys and values.
pub fn attention(
    backend: &Backend,
    shape: &AttentionShape,
    read: &Qkv,
    sequences: &mut [Ragged],
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_size, .. } = *shape;
    let (columns, narrow) = (heads * head_size, kv_heads * head_size);
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_size > 0, "heads in equal groups");
    let tokens: usize = sequences.iter().map(|sequence| sequence.tokens).sum();
    assert!(read.query.len() == tokens * columns && out.len() == tokens * columns, "a query for every token");
    let expected = tokens * narrow;
    assert!(read.key.len() == expected && read.value.len() == expected, "a key and a value for every query");
    for Ragged { states, .. } in &*sequences {
        assert!(
            states.heads() == kv_heads && states.head_size() == head_size,
            "{kv_heads} heads of {head_size}"
        );
    }
    let mut next = 0;
    // Of each sequence: its first row that is left, and the row after its last.
    let mut left: Vec<(usize, usize)> = Vec::with_capacity(sequences.len());
    for sequence in &*sequences {
        left.push((next, next + sequence.tokens));
        next += sequence.tokens;
    }
    while left.iter().any(|(at, end)| at < end) {
        let mut counts = vec![0; sequences.len()];
        for (i, sequence) in sequences.iter_mut().enumerate() {
            let (at, end) = left[i];
            counts[i] = sequence.states.room().min(end - at);
            let rows = at * narrow..(at + counts[i]) * narrow;
            sequence.states.append(&read.key[rows.clone()], &read.value[rows]);
        }
        let rounds = sequences.iter().zip(&left).zip(&counts);
        let spans: Vec<Span> = rounds
            .map(|((sequence, (row, _)), count)| Span { states: &*sequence.states, row: *row, count: *count })
            .collect();
        see(backend, shape, &read.query, &spans, out);
        for ((at, _), count) in left.iter_mut().zip(counts) {
            *at += count;
        }
    }
}

/// Queries of one sequence: rows `row..row + count`, which are its last positions.
struct Span<'a> {
    states: &'a KeyValues,
    row: usize,
    count: usize,
}

/// `out` = what `query` sees: the i-th of a span's queries all positions but the last `count − 1 − i`.
fn see(backend: &Backend, shape: &AttentionShape, query: &[f32], spans: &[Span], out: &mut [f32]) {
    let AttentionShape { heads, kv_heads, head_size, scale } = *shape;
    let (columns, group) = (heads * head_size, heads / kv_heads);
    // The last queries of a sequence see most, so they go first.
    let block = |span: &'_ Span| (0..span.count.div_ceil(QUERIES)).rev();
    let blocks: Vec<(usize, usize)> =
        spans.iter().enumerate().flat_map(|(i, span)| block(span).map(move |block| (i, block))).collect();
    let out = Shared::new(out);
    backend.pool().run(blocks.len() * kv_heads, &|task| {
        let ((index, block), kv_head) = (blocks[task / kv_heads], task % kv_heads);
        let Span { states, row: first_row, count: n } = spans[index];
        let first = block * QUERIES;
        let count = QUERIES.min(n - first);
        let row = |i: usize| (first_row + first + i) * columns + kv_head * group * head_size;
        let visible: Vec<usize> =
            (0..count * group).map(|r| states.len() - n + first + r / group + 1).collect();
        let format = states.format();
        let (rows, width) = (visible.len(), head_size.next_multiple_of(format.numbers()));
        let mut state = vec![[f32::NEG_INFINITY, 0.0]; rows];
        scratch::with(rows * (head_size + width), |both| {
            let (queries, sums) = both.split_at_mut(rows * head_size);
            for (i, queries) in queries.chunks_exact_mut(group * head_size).enumerate() {
                queries.copy_from_slice(&query[row(i)..][..group * head_size]);
            }
            if format.turns() {
                queries.chunks_exact_mut(head_size).for_each(key_values::turn);
            }
            sums.fill(0.0);
            let pages = visible[rows - 1].div_ceil(PAGE);
            let mut all =
                QueryRows { head_size, scale, queries, visible: &visible, state: &mut state, sums, ahead: 0 };
            for page in 0..pages {
                let Seen { format, keys, values } = states.page(page, kv_head);
                let next = (rows <= FEW && page + 1 < pages).then(|| states.page(page + 1, kv_head));
                // Pages lie anywhere: the distance may be negative.
                all.ahead = match next {
                    Some(next) if next.format == format => {
                        next.keys.as_ptr().addr().wrapping_sub(keys.as_ptr().addr())
                    }
                    _ => 0,
                };
                backend.cpu().attention(format, &mut all, page, keys, values);
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
    use crate::{Isa, KvFormat};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    fn shape(head_size: usize) -> AttentionShape {
        AttentionShape { heads: 6, kv_heads: 2, head_size, scale: 0.1 }
    }

    fn everything(shape: &AttentionShape, positions: usize) -> Qkv {
        let count = |heads: usize| positions * heads * shape.head_size;
        Qkv {
            query: numbers(count(shape.heads), 1),
            key: numbers(count(shape.kv_heads), 2),
            value: numbers(count(shape.kv_heads), 3),
        }
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

    /// Everything that positions `range` read.
    fn part(shape: &AttentionShape, all: &Qkv, range: std::ops::Range<usize>) -> Qkv {
        let [wide, narrow] = [shape.heads, shape.kv_heads].map(|heads| heads * shape.head_size);
        let of = |all: &[f32], width: usize| all[range.start * width..range.end * width].to_vec();
        Qkv { query: of(&all.query, wide), key: of(&all.key, narrow), value: of(&all.value, narrow) }
    }

    fn held(format: KvFormat, shape: &AttentionShape, all: &Qkv, positions: usize) -> KeyValues {
        let mut held = KeyValues::new(format, shape.kv_heads, shape.head_size).unwrap();
        let past = part(shape, all, 0..positions);
        held.append(&past.key, &past.value);
        held
    }

    fn alone(backend: &Backend, shape: &AttentionShape, read: &Qkv, held: &mut KeyValues) -> Vec<f32> {
        let mut out = vec![0.0; read.query.len()];
        let tokens = read.query.len() / (shape.heads * shape.head_size);
        attention(backend, shape, read, &mut [Ragged { states: held, tokens }], &mut out);
        out
    }

    #[test]
    fn every_path_and_format_sees_what_plain_sums_see() {
        for head_size in [72, 64, 20] {
            let shape = shape(head_size);
            let (columns, narrow) = (6 * head_size, 2 * head_size);
            for (n, past) in [(1, 0), (1, 37), (3, 62), (16, 0), (70, 0), (45, 300)] {
                let all = everything(&shape, n + past);
                let read = part(&shape, &all, past..past + n);
                let expected = plain(&shape, &read.query, &all.key, &all.value);
                assert_eq!((expected.len(), all.key.len()), (n * columns, (n + past) * narrow));
                for &format in KvFormat::ALL.iter().filter(|format| format.check(head_size).is_ok()) {
                    // What rounding of numbers up to one may come to.
                    let most = match format {
                        KvFormat::F32 => 1e-5,
                        KvFormat::F16 => 1e-3,
                        KvFormat::Q8_0 => 0.01,
                        KvFormat::Q4_0 => 0.15,
                    };
                    for isa in Isa::available() {
                        let mut held = held(format, &shape, &all, past);
                        let out = alone(&Backend::new(isa, 3), &shape, &read, &mut held);
                        let worst = expected.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(worst < most, "{head_size}, {n} after {past}, {format:?}, {isa:?}: {worst}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_query_sees_the_same_alone_and_beside_others() {
        let (shape, n) = (shape(64), 210);
        let (columns, all) = (6 * 64, everything(&shape, n));
        for &format in KvFormat::ALL {
            for isa in Isa::available() {
                let backend = Backend::new(isa, 2);
                let whole = alone(&backend, &shape, &all, &mut held(format, &shape, &all, 0));
                // Piece by piece, with positions forgotten and put back between.
                for pieces in [1, 7, 64, 100] {
                    let mut found = vec![0.0; whole.len()];
                    let mut held = KeyValues::new(format, 2, 64).unwrap();
                    while held.len() < n {
                        let before = held.len();
                        let stale = vec![f32::NAN; pieces * 2 * 64];
                        held.append(&stale, &stale);
                        held.truncate(before);
                        let (start, end) = (held.len(), n.min(before + pieces));
                        let out = alone(&backend, &shape, &part(&shape, &all, start..end), &mut held);
                        found[start * columns..end * columns].copy_from_slice(&out);
                    }
                    assert!(found == whole, "{format:?}, {isa:?}, pieces of {pieces}");
                }
                // Several sequences of other lengths at once, with as many or other numbers of positions each.
                let lengths = [1, 20, 64, 65, 129, 150];
                for counts in [[1; 6], [60; 6], [1, 0, 60, 17, 64, 2]] {
                    let of = |i: usize| lengths[i] - 1..lengths[i] - 1 + counts[i];
                    let reads: Vec<Qkv> = (0..6).map(|i| part(&shape, &all, of(i))).collect();
                    let read = Qkv {
                        query: reads.iter().flat_map(|read| read.query.clone()).collect(),
                        key: reads.iter().flat_map(|read| read.key.clone()).collect(),
                        value: reads.iter().flat_map(|read| read.value.clone()).collect(),
                    };
                    let mut held = lengths.map(|l| held(format, &shape, &all, l - 1));
                    let mut sequences: Vec<Ragged> = held
                        .iter_mut()
                        .zip(counts)
                        .map(|(states, tokens)| Ragged { states, tokens })
                        .collect();
                    let mut together = vec![0.0; read.query.len()];
                    attention(&backend, &shape, &read, &mut sequences, &mut together);
                    let mut found = &together[..];
                    for i in 0..6 {
                        let (own, rest) = found.split_at(counts[i] * columns);
                        let expected = &whole[of(i).start * columns..of(i).end * columns];
                        assert!(own == expected, "{format:?}, {isa:?}, {counts:?} from {}", lengths[i]);
                        found = rest;
                    }
                }
            }
        }
    }

    #[test]
    fn what_comes_later_never_reaches_what_came_before() {
        let (shape, n) = (shape(64), 20);
        let (columns, narrow) = (6 * 64, 2 * 64);
        let sound = everything(&shape, n);
        let mut damaged = part(&shape, &sound, 0..n);
        damaged.value[7 * narrow..8 * narrow].fill(f32::NAN);
        for isa in Isa::available() {
            let run = |read: &Qkv| {
                alone(&Backend::new(isa, 2), &shape, read, &mut held(KvFormat::F32, &shape, read, 0))
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
