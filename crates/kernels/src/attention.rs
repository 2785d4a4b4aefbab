//! Grouped-query attention over the KV caches of sequences ([`KeyValues`]), causal or in both directions.
//!
//! A task processes one head of keys and values, and up to 16 tokens of one sequence. It processes all query heads that
//! share this head together, so that it reads each page of the head only one time. A page is the keys and values of 64
//! positions.
//!
//! Invariant: the result of a query does not depend on other queries, on other sequences or on the number of threads.

use crate::cpu::generic::attention_kernel::QueryRows;
use crate::key_values::{self, HeadPage};
use crate::kv_format::PAGE;
use crate::shared::Shared;
use crate::{Backend, KeyValues, scratch};
use std::ops::Range;

/// Maximum number of tokens in one task.
const TOKENS_PER_TASK: usize = 16;

/// Maximum number of query rows (tokens × query heads) for which a task prefetches the next page. With more rows, the
/// computation of a page takes longer than its memory reads.
const MAX_PREFETCH_ROWS: usize = 16;

/// The sizes of an attention layer, and the computation of its scores.
///
/// The score of a query and a key is the dot product of both, multiplied by `scale`. If there is a soft cap c, the score
/// x becomes c · tanh(x / c).
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Number of query heads.
    pub heads: usize,
    /// Number of heads of keys and values. It divides `heads`.
    pub kv_heads: usize,
    /// Floats per head.
    pub head_size: usize,
    /// Factor of the dot products.
    pub scale: f32,
    /// True if a query reads no position after its own.
    pub causal: bool,
    /// The number of positions that a query reads: its own position and the positions directly before it. Without
    /// `causal`, it also reads as many positions after its own as before. `None` if it reads all positions. Above 0.
    pub window: Option<usize>,
    /// The soft cap of the scores, above 0.
    pub softcap: Option<f32>,
    /// For each query head, one more score, without a key and with a value of zeros. `None` if there are no such scores.
    /// Source: Xiao et al., Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453, section 3.3.
    pub sinks: Option<Vec<f32>>,
}

impl AttentionShape {
    /// Returns the first position that the query of position `position` reads.
    pub(crate) fn first_read(&self, position: usize) -> usize {
        key_values::first_read(self.window, position)
    }

    /// Returns the positions that the query of position `position` reads in a sequence of `length` positions.
    pub(crate) fn read(&self, position: usize, length: usize) -> Range<usize> {
        let end = match (self.causal, self.window) {
            (true, _) => position + 1,
            (false, None) => length,
            (false, Some(window)) => position.saturating_add(window).min(length),
        };
        self.first_read(position)..end
    }
}

/// The input of attention, or the gradient of a loss with respect to this input.
///
/// The queries have the shape tokens × query heads × head size. The keys and the values have the shape tokens × KV
/// heads × head size. The tokens of the first sequence come first, followed by the tokens of the second sequence, and
/// so on.
pub struct Qkv {
    /// Queries.
    pub query: Vec<f32>,
    /// Keys.
    pub key: Vec<f32>,
    /// Values.
    pub value: Vec<f32>,
}

/// The KV cache of one sequence in one layer, and the number of new tokens of this sequence in the batch.
pub struct Ragged<'a> {
    /// The keys and values of the earlier positions. [`attention`] appends the new positions.
    pub states: &'a mut KeyValues,
    /// Number of new tokens.
    pub tokens: usize,
}

/// Appends the new keys and values to the KV caches of their sequences, and writes the result of attention to `out`.
/// `out` has the shape of the queries. Each query attends to the positions of its sequence up to and including its own
/// position; without [`AttentionShape::causal`], also to the positions after its own.
///
/// [`KvFormat::Q4_0`](crate::KvFormat::Q4_0) stores the last page in more bits, and every query reads its own page in
/// these bits. So with this format, the function processes new tokens page by page: it computes all queries of a page
/// before it appends to the next page.
///
/// Panics if the total number of new tokens differs from the number of queries, keys or values. Panics if the heads or
/// the head size of a KV cache differ from `shape`, or if its window is smaller. Panics if attention is not causal, and a
/// KV cache has earlier positions or takes the new ones page by page.
pub fn attention(
    backend: &Backend,
    shape: &AttentionShape,
    qkv: &Qkv,
    sequences: &mut [Ragged],
    out: &mut [f32],
) {
    let &AttentionShape { heads, kv_heads, head_size, .. } = shape;
    let (columns, kv_columns) = (heads * head_size, kv_heads * head_size);
    assert!(shape.sinks.as_ref().is_none_or(|sinks| sinks.len() == heads), "a sink for every query head");
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_size > 0, "heads in equal groups");
    let tokens: usize = sequences.iter().map(|sequence| sequence.tokens).sum();
    assert!(qkv.query.len() == tokens * columns && out.len() == tokens * columns, "a query for every token");
    let expected = tokens * kv_columns;
    assert!(qkv.key.len() == expected && qkv.value.len() == expected, "a key and a value for every query");
    for Ragged { states, .. } in &*sequences {
        assert!(
            states.heads() == kv_heads && states.head_size() == head_size,
            "{kv_heads} heads of {head_size}"
        );
        assert!(reads_kept(shape, states), "a window of at most the positions that the cache keeps");
    }
    for Ragged { states, tokens } in sequences.iter().filter(|_| !shape.causal) {
        assert!(states.is_empty() && states.room() >= *tokens, "a whole sequence at once");
    }
    let mut next = 0;
    // For each sequence: the first row that is not yet processed, and the end of the rows (exclusive).
    let mut pending: Vec<(usize, usize)> = Vec::with_capacity(sequences.len());
    for sequence in &*sequences {
        pending.push((next, next + sequence.tokens));
        next += sequence.tokens;
    }
    while pending.iter().any(|(at, end)| at < end) {
        let mut counts = vec![0; sequences.len()];
        for (i, sequence) in sequences.iter_mut().enumerate() {
            let (at, end) = pending[i];
            counts[i] = sequence.states.room().min(end - at);
            let rows = at * kv_columns..(at + counts[i]) * kv_columns;
            sequence.states.append(&qkv.key[rows.clone()], &qkv.value[rows]);
        }
        let rounds = sequences.iter().zip(&pending).zip(&counts);
        let spans: Vec<Span> = rounds
            .map(|((sequence, (row, _)), count)| Span { states: &*sequence.states, row: *row, count: *count })
            .collect();
        attend(backend, shape, &qkv.query, &spans, out);
        for ((at, _), count) in pending.iter_mut().zip(counts) {
            *at += count;
        }
    }
}

/// Writes the result of causal attention to `out`, over keys and values that the KV caches hold already. The queries of a
/// sequence are those of its last positions. `query` and `out` have the shape of the queries.
///
/// Panics if the total number of new tokens differs from the number of queries, or if a KV cache has fewer positions, other
/// heads, another head size, a smaller window, or dropped positions that a query reads.
pub fn attention_of_held(
    backend: &Backend,
    shape: &AttentionShape,
    query: &[f32],
    sequences: &[Ragged],
    out: &mut [f32],
) {
    let &AttentionShape { heads, kv_heads, head_size, .. } = shape;
    let columns = heads * head_size;
    assert!(shape.sinks.as_ref().is_none_or(|sinks| sinks.len() == heads), "a sink for every query head");
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_size > 0, "heads in equal groups");
    let tokens: usize = sequences.iter().map(|sequence| sequence.tokens).sum();
    assert!(query.len() == tokens * columns && out.len() == tokens * columns, "a query for every token");
    let mut row = 0;
    let mut spans = Vec::with_capacity(sequences.len());
    for Ragged { states, tokens } in sequences {
        let fits = states.heads() == kv_heads && states.head_size() == head_size;
        assert!(fits && states.len() >= *tokens, "{kv_heads} heads of {head_size}");
        assert!(reads_kept(shape, states), "a window of at most the positions that the cache keeps");
        assert!(states.has_read_pages(states.len() - tokens), "queries that read no dropped position");
        spans.push(Span { states, row, count: *tokens });
        row += tokens;
    }
    attend(backend, shape, query, &spans, out);
}

/// True if no query reads a position that a cache drops.
fn reads_kept(shape: &AttentionShape, states: &KeyValues) -> bool {
    states.window().is_none_or(|kept| shape.window.is_some_and(|window| window <= kept))
}

/// The queries of one sequence: rows `row..row + count` of the batch. These queries belong to the last `count`
/// positions of `states`.
struct Span<'a> {
    states: &'a KeyValues,
    row: usize,
    count: usize,
}

/// Writes the results of attention for the queries of all spans to `out`. Query i of a span attends to all positions of
/// its sequence except the positions outside its window and, with causal attention, the last `count − 1 − i` positions.
fn attend(backend: &Backend, shape: &AttentionShape, query: &[f32], spans: &[Span], out: &mut [f32]) {
    let &AttentionShape { heads, kv_heads, head_size, scale, softcap, .. } = shape;
    let (columns, group) = (heads * head_size, heads / kv_heads);
    // The last queries of a sequence attend to the most positions. The tasks of these queries start first, to balance
    // the load.
    let block = |span: &'_ Span| (0..span.count.div_ceil(TOKENS_PER_TASK)).rev();
    let blocks: Vec<(usize, usize)> =
        spans.iter().enumerate().flat_map(|(i, span)| block(span).map(move |block| (i, block))).collect();
    let out = Shared::new(out);
    backend.pool().run(blocks.len() * kv_heads, &|task| {
        let ((index, block), kv_head) = (blocks[task / kv_heads], task % kv_heads);
        let Span { states, row: first_row, count: n } = spans[index];
        let first = block * TOKENS_PER_TASK;
        let count = TOKENS_PER_TASK.min(n - first);
        let row = |i: usize| (first_row + first + i) * columns + kv_head * group * head_size;
        let visible: Vec<Range<usize>> = (0..count * group)
            .map(|r| {
                let position = states.len() - n + first + r / group;
                shape.read(position, states.len())
            })
            .collect();
        let format = states.format();
        let stored_size = states.stored_head_size();
        let (rows, width) = (visible.len(), stored_size.next_multiple_of(format.part_floats()));
        // A sink is the first score: the maximum is the sink, and the sum of the exponentials is 1.
        let mut state: Vec<[f32; 2]> = match &shape.sinks {
            None => vec![[f32::NEG_INFINITY, 0.0]; rows],
            Some(sinks) => (0..rows).map(|r| [sinks[kv_head * group + r % group], 1.0]).collect(),
        };
        scratch::with(rows * (stored_size + width), |buffer| {
            let (queries, sums) = buffer.split_at_mut(rows * stored_size);
            for (i, queries) in queries.chunks_exact_mut(group * stored_size).enumerate() {
                let heads = query[row(i)..][..group * head_size].chunks_exact(head_size);
                for (stored, head) in queries.chunks_exact_mut(stored_size).zip(heads) {
                    stored[..head_size].copy_from_slice(head);
                    stored[head_size..].fill(0.0);
                }
            }
            if format.rotates_keys() {
                queries.chunks_exact_mut(stored_size).for_each(key_values::rotate_head);
            }
            sums.fill(0.0);
            let pages = visible[rows - 1].end.div_ceil(PAGE);
            let mut query_rows = QueryRows {
                head_size: stored_size,
                scale,
                softcap,
                queries,
                visible: &visible,
                state: &mut state,
                sums,
                ahead: 0,
            };
            for page in visible[0].start / PAGE..pages {
                let HeadPage { format, keys, values } = states.page(page, kv_head);
                let next =
                    (rows <= MAX_PREFETCH_ROWS && page + 1 < pages).then(|| states.page(page + 1, kv_head));
                // The subtraction wraps, because the next page may have a lower address.
                query_rows.ahead = match next {
                    Some(next) if next.format == format => {
                        next.keys.as_ptr().addr().wrapping_sub(keys.as_ptr().addr())
                    }
                    _ => 0,
                };
                backend.cpu().attention(format, &mut query_rows, page, keys, values);
            }
            for i in 0..count {
                // SAFETY: each task writes the results of its own heads and queries, so no other task accesses them.
                let out = unsafe { out.part(row(i), group * head_size) };
                for (head, out) in out.chunks_exact_mut(head_size).enumerate() {
                    let r = i * group + head;
                    let inverse_sum = 1.0 / state[r][1];
                    out.iter_mut().zip(&sums[r * width..]).for_each(|(out, sum)| *out = sum * inverse_sum);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, KvFormat};

    fn floats(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    fn shape(head_size: usize) -> AttentionShape {
        AttentionShape {
            heads: 6,
            kv_heads: 2,
            head_size,
            scale: 0.1,
            causal: true,
            window: None,
            softcap: None,
            sinks: None,
        }
    }

    /// Returns shapes with and without a window, a soft cap and sinks.
    fn shapes(head_size: usize) -> Vec<AttentionShape> {
        let plain = shape(head_size);
        let sinks = Some(vec![-1.0, 0.5, 2.0, 0.0, 3.0, -9.0]);
        vec![
            AttentionShape { window: Some(40), ..plain.clone() },
            AttentionShape { window: Some(130), softcap: Some(0.7), sinks, ..plain.clone() },
            plain,
        ]
    }

    fn qkv_of_positions(shape: &AttentionShape, positions: usize) -> Qkv {
        let count = |heads: usize| positions * heads * shape.head_size;
        Qkv {
            query: floats(count(shape.heads), 1),
            key: floats(count(shape.kv_heads), 2),
            value: floats(count(shape.kv_heads), 3),
        }
    }

    /// Computes attention with plain sums in `f64`. The queries belong to the last positions.
    fn reference(shape: &AttentionShape, query: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let &AttentionShape { heads, kv_heads, head_size, scale, .. } = shape;
        let (columns, kv_columns, group) = (heads * head_size, kv_heads * head_size, heads / kv_heads);
        let (n, past) = (query.len() / columns, keys.len() / kv_columns - query.len() / columns);
        let mut out = Vec::new();
        for (i, head) in (0..n).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let of = |all: &[f32], t: usize, k: usize| {
                f64::from(all[t * kv_columns + head / group * head_size + k])
            };
            let (at, distance) = (past + i, shape.window.map_or(usize::MAX, |window| window - 1));
            let read = |t: &usize| at.abs_diff(*t) <= distance && (*t <= at || !shape.causal);
            let positions: Vec<usize> = (0..past + n).filter(read).collect();
            let scores = positions.iter().map(|&t| {
                let query = |k: usize| f64::from(query[i * columns + head * head_size + k]);
                let score = f64::from(scale) * (0..head_size).map(|k| query(k) * of(keys, t, k)).sum::<f64>();
                shape.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
            });
            let scores: Vec<f64> = scores.collect();
            let sink = shape.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
            let total: f64 = scores.iter().sum::<f64>() + sink;
            let sum =
                |k: usize| scores.iter().zip(&positions).map(|(s, &t)| s * of(values, t, k)).sum::<f64>();
            out.extend((0..head_size).map(|k| (sum(k) / total) as f32));
        }
        out
    }

    /// Returns the queries, keys and values of the positions `range`.
    fn part(shape: &AttentionShape, all: &Qkv, range: std::ops::Range<usize>) -> Qkv {
        let [wide, kv_columns] = [shape.heads, shape.kv_heads].map(|heads| heads * shape.head_size);
        let of = |all: &[f32], width: usize| all[range.start * width..range.end * width].to_vec();
        Qkv { query: of(&all.query, wide), key: of(&all.key, kv_columns), value: of(&all.value, kv_columns) }
    }

    fn held(format: KvFormat, shape: &AttentionShape, all: &Qkv, positions: usize) -> KeyValues {
        let mut held = KeyValues::new(format, shape.kv_heads, shape.head_size);
        let past = part(shape, all, 0..positions);
        held.append(&past.key, &past.value);
        held
    }

    fn attend_one(backend: &Backend, shape: &AttentionShape, qkv: &Qkv, held: &mut KeyValues) -> Vec<f32> {
        let mut out = vec![0.0; qkv.query.len()];
        let tokens = qkv.query.len() / (shape.heads * shape.head_size);
        attention(backend, shape, qkv, &mut [Ragged { states: held, tokens }], &mut out);
        out
    }

    #[test]
    fn every_isa_and_format_matches_plain_sums() {
        for shape in [72, 64, 20].into_iter().flat_map(shapes) {
            let head_size = shape.head_size;
            let (columns, kv_columns) = (6 * head_size, 2 * head_size);
            for (n, past) in [(1, 0), (1, 37), (3, 62), (16, 0), (70, 0), (45, 300)] {
                let all = qkv_of_positions(&shape, n + past);
                let qkv = part(&shape, &all, past..past + n);
                let expected = reference(&shape, &qkv.query, &all.key, &all.value);
                assert_eq!((expected.len(), all.key.len()), (n * columns, (n + past) * kv_columns));
                for &format in KvFormat::ALL {
                    // Maximum error that rounding may cause. All values are between −1 and 1.
                    let most = match format {
                        KvFormat::F32 => 1e-5,
                        KvFormat::F16 => 1e-3,
                        KvFormat::Q8_0 => 0.01,
                        KvFormat::Q4_0 => 0.15,
                    };
                    for isa in Isa::available() {
                        let mut held = held(format, &shape, &all, past);
                        let out = attend_one(&Backend::new(isa, 3), &shape, &qkv, &mut held);
                        let worst = expected.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(worst < most, "{shape:?}, {n} after {past}, {format:?}, {isa:?}: {worst}");
                    }
                }
            }
        }
    }

    #[test]
    fn attention_in_both_directions_matches_plain_sums() {
        for shape in shapes(64).into_iter().chain(shapes(20)) {
            let (shape, columns) = (AttentionShape { causal: false, ..shape.clone() }, 6 * shape.head_size);
            for isa in Isa::available() {
                // Several sequences in one batch.
                let lengths = [1, 70, 129, 20, 300];
                let all: Vec<Qkv> = lengths.iter().map(|&n| qkv_of_positions(&shape, n)).collect();
                let join = |of: fn(&Qkv) -> &Vec<f32>| all.iter().flat_map(|qkv| of(qkv).clone()).collect();
                let qkv = Qkv { query: join(|x| &x.query), key: join(|x| &x.key), value: join(|x| &x.value) };
                let mut held: Vec<_> = all.iter().map(|x| held(KvFormat::F32, &shape, x, 0)).collect();
                let parts = held.iter_mut().zip(lengths);
                let mut sequences: Vec<Ragged> =
                    parts.map(|(states, tokens)| Ragged { states, tokens }).collect();
                let mut found = vec![0.0; qkv.query.len()];
                attention(&Backend::new(isa, 3), &shape, &qkv, &mut sequences, &mut found);
                let mut rest = &found[..];
                for (qkv, n) in all.iter().zip(lengths) {
                    let (own, others) = rest.split_at(n * columns);
                    let expected = reference(&shape, &qkv.query, &qkv.key, &qkv.value);
                    let worst = expected.iter().zip(own).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(worst < 1e-5, "{shape:?}, {n} positions, {isa:?}: {worst}");
                    rest = others;
                }
            }
        }
    }

    #[test]
    fn a_query_has_the_same_result_alone_and_in_any_batch() {
        let n = 210;
        for (shape, &format) in shapes(64).iter().flat_map(|s| KvFormat::ALL.iter().map(move |f| (s, f))) {
            let (columns, all) = (6 * 64, qkv_of_positions(shape, n));
            for isa in Isa::available() {
                let backend = Backend::new(isa, 2);
                let whole = attend_one(&backend, shape, &all, &mut held(format, shape, &all, 0));
                // Compute the tokens in pieces of different sizes. Before each piece, append stale positions and
                // truncate them.
                for pieces in [1, 7, 64, 100] {
                    let mut found = vec![0.0; whole.len()];
                    let mut held = KeyValues::new(format, 2, 64);
                    while held.len() < n {
                        let before = held.len();
                        let stale = vec![f32::NAN; pieces * 2 * 64];
                        held.append(&stale, &stale);
                        held.truncate(before);
                        let (start, end) = (held.len(), n.min(before + pieces));
                        let out = attend_one(&backend, shape, &part(shape, &all, start..end), &mut held);
                        found[start * columns..end * columns].copy_from_slice(&out);
                    }
                    assert!(found == whole, "{format:?}, {isa:?}, pieces of {pieces}");
                }
                // Compute several sequences of different lengths in one batch. Their numbers of new positions are equal
                // in some batches and different in one batch.
                let lengths = [1, 20, 64, 65, 129, 150];
                for counts in [[1; 6], [60; 6], [1, 0, 60, 17, 64, 2]] {
                    let of = |i: usize| lengths[i] - 1..lengths[i] - 1 + counts[i];
                    let all_qkv: Vec<Qkv> = (0..6).map(|i| part(shape, &all, of(i))).collect();
                    let qkv = Qkv {
                        query: all_qkv.iter().flat_map(|qkv| qkv.query.clone()).collect(),
                        key: all_qkv.iter().flat_map(|qkv| qkv.key.clone()).collect(),
                        value: all_qkv.iter().flat_map(|qkv| qkv.value.clone()).collect(),
                    };
                    let mut held = lengths.map(|l| held(format, shape, &all, l - 1));
                    let mut sequences: Vec<Ragged> = held
                        .iter_mut()
                        .zip(counts)
                        .map(|(states, tokens)| Ragged { states, tokens })
                        .collect();
                    let mut together = vec![0.0; qkv.query.len()];
                    attention(&backend, shape, &qkv, &mut sequences, &mut together);
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
    fn hidden_positions_do_not_change_results() {
        let (shape, n) = (AttentionShape { window: Some(9), ..shape(64) }, 20);
        let (columns, kv_columns) = (6 * 64, 2 * 64);
        let sound = qkv_of_positions(&shape, n);
        let mut damaged = part(&shape, &sound, 0..n);
        damaged.value[7 * kv_columns..8 * kv_columns].fill(f32::NAN);
        for isa in Isa::available() {
            let run = |qkv: &Qkv| {
                attend_one(&Backend::new(isa, 2), &shape, qkv, &mut held(KvFormat::F32, &shape, qkv, 0))
            };
            let (before, after) = (run(&sound), run(&damaged));
            assert!(before[..7 * columns] == after[..7 * columns], "{isa:?}");
            assert!(after[7 * columns..16 * columns].iter().all(|x| x.is_nan()), "{isa:?}");
            assert!(before[16 * columns..] == after[16 * columns..], "{isa:?}");
        }
    }
}
