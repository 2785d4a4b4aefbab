//! The inner loops of attention over pages of keys and values. A page has 64 positions. The loops are inlined into
//! functions of each instruction set.
//!
//! ```text
//! for each page, for up to four or eight rows (queries of heads that share keys and values) at the same time:
//!     s ← scores of the page's 64 keys, −∞ where the causal mask or the window hides a key from a row
//!     m' ← max(m, max s);  l ← l · e^(m − m') + Σ e^(s − m');  o ← o · e^(m − m') + Σ e^(s − m') v;  m ← m'
//! o ← o / l
//! ```
//!
//! For each row, m is the maximum of its scores so far, l is the sum of its exponentials so far, and o is the weighted
//! sum of the values v so far. A prime marks the new value. At the start, m is −∞, and l and o are 0.
//!
//! Source: Dao et al., FlashAttention, arXiv 2205.14135. Pages begin at fixed positions, and every sum has a fixed
//! order. So the result of a row does not depend on the other rows of the call.
//!
//! Measurements and commands: docs/performance.md, "Attention".

use super::lanes::Lanes;
use super::loops::{exp, larger, multiply_add, plus, reduce_pairwise, softcap};
use super::page_formats::{Bytes, Floats, Halves, Nibbles, PageFormat};
use crate::KvFormat;
use crate::kv_format::{LANES, PAGE, PANELS};
use std::ops::Range;

#[inline(always)]
fn multiply_add_as<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { multiply_add::<true>(a, b, c) } else { multiply_add::<false>(a, b, c) }
}

/// Query rows, and their results after the pages that were added so far. A row is the query of one head at one
/// position.
pub(crate) struct QueryRows<'a> {
    /// Number of floats per head.
    pub head_size: usize,
    /// The factor by which products of queries and keys are multiplied.
    pub scale: f32,
    /// The soft cap c: a score x becomes c · tanh(x / c).
    pub softcap: Option<f32>,
    /// Shape: rows × head size.
    pub queries: &'a [f32],
    /// For each row: the positions that the row may read.
    pub visible: &'a [Range<usize>],
    /// For each row: the maximum of its scores and the sum of its exponentials (m and l in the module's formulas).
    pub state: &'a mut [[f32; 2]],
    /// The weighted sums of values (o in the module's formulas), not yet divided by l. Shape: rows × head size, where
    /// the head size is rounded up to whole parts of values.
    pub sums: &'a mut [f32],
    /// Distance in bytes from a page to the next page, which is prefetched during the computation; 0 if there is no
    /// next page.
    pub ahead: usize,
}

/// Adds the keys and values of page `at` to the results of all rows. `keys` and `values` are the bytes of this page in
/// `format`.
#[inline(always)]
pub(crate) fn add_page<L: Lanes>(
    simd: L,
    format: KvFormat,
    rows: &mut QueryRows,
    at: usize,
    keys: &[u8],
    values: &[u8],
) {
    match format {
        KvFormat::F32 => add_page_in::<L, Floats>(simd, rows, at, keys, values),
        KvFormat::F16 => add_page_in::<L, Halves>(simd, rows, at, keys, values),
        KvFormat::Q8_0 => add_page_in::<L, Bytes>(simd, rows, at, keys, values),
        KvFormat::Q4_0 => add_page_in::<L, Nibbles>(simd, rows, at, keys, values),
    }
}

/// Computes [`add_page`] for one format.
#[inline(always)]
fn add_page_in<L: Lanes, P: PageFormat>(
    simd: L,
    rows: &mut QueryRows,
    page: usize,
    keys: &[u8],
    values: &[u8],
) {
    // The keys of the page that a row may read.
    let visible_keys = |row: usize| {
        let Range { start, end } = rows.visible[row];
        start.saturating_sub(page * PAGE).min(PAGE)..end.saturating_sub(page * PAGE).min(PAGE)
    };
    let mut first = 0;
    while first < rows.visible.len() {
        let visible_here = visible_keys(first);
        // Only rows that may read the same positions of the page are processed together. A key that a row may not read
        // must not influence the result of the row, even if the key is not finite.
        let same_visible = (first..rows.visible.len().min(first + L::MAX_ROWS))
            .take_while(|&row| visible_keys(row) == visible_here);
        let count = match same_visible.count() {
            4..8 => 4,
            count => count,
        };
        if !visible_here.is_empty() {
            match count {
                1 => add_page_to_rows::<L, P, 1>(simd, rows, first, visible_here, keys, values),
                2 => add_page_to_rows::<L, P, 2>(simd, rows, first, visible_here, keys, values),
                3 => add_page_to_rows::<L, P, 3>(simd, rows, first, visible_here, keys, values),
                8 if L::MAX_ROWS == 8 => {
                    add_page_to_rows::<L, P, 8>(simd, rows, first, visible_here, keys, values)
                }
                _ => add_page_to_rows::<L, P, 4>(simd, rows, first, visible_here, keys, values),
            }
        }
        first += count;
    }
    const { assert!(L::MAX_ROWS == 8 || L::MAX_ROWS == 4) };
}

/// Computes [`add_page`] for the `T` rows from `first` on. All of these rows read the keys `visible_keys` of the page;
/// `visible_keys` is not empty.
#[inline(always)]
fn add_page_to_rows<L: Lanes, P: PageFormat, const T: usize>(
    simd: L,
    rows: &mut QueryRows,
    first: usize,
    visible_keys: Range<usize>,
    keys: &[u8],
    values: &[u8],
) {
    let size = rows.head_size;
    let queries: [&[f32]; T] = std::array::from_fn(|t| &rows.queries[(first + t) * size..][..size]);
    let mut row_scores = [[f32::NEG_INFINITY; PAGE]; T];
    let (panels, panel_bytes) = (visible_keys.end.div_ceil(LANES), keys.len() / PANELS);
    let mut panel = 0;
    while panel < panels {
        macro_rules! scores {
            ($n:literal) => {{
                let key_panels = std::array::from_fn(|n| &keys[(panel + n) * panel_bytes..][..panel_bytes]);
                for scores in P::scores::<L, T, $n>(simd, queries, key_panels, rows.ahead) {
                    for (row_scores, scores) in row_scores.iter_mut().zip(scores) {
                        row_scores.as_chunks_mut().0[panel] =
                            simd.to_array(simd.multiply(scores, simd.splat(rows.scale)));
                    }
                    panel += 1;
                }
            }};
        }
        // The last panels of a step may contain only keys that are not visible. The page has these panels, so reading
        // them is allowed; their scores are replaced below.
        match L::ACCUMULATORS / T {
            0 | 1 => scores!(1),
            2 | 3 => scores!(2),
            _ => scores!(4),
        }
    }
    let (mut old_maxima, mut new_maxima) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
    for (t, row_scores) in row_scores.iter_mut().enumerate() {
        if let Some(cap) = rows.softcap {
            let visible_scores = &mut row_scores[visible_keys.clone()];
            if L::FUSED {
                softcap::<true>(visible_scores, cap)
            } else {
                softcap::<false>(visible_scores, cap)
            }
        }
        row_scores[..visible_keys.start].fill(f32::NEG_INFINITY);
        row_scores[visible_keys.end..].fill(f32::NEG_INFINITY);
        let panels = &row_scores.as_chunks().0[..panels];
        let mut maximum = simd.splat(f32::NEG_INFINITY);
        for panel in panels {
            maximum = simd.max(maximum, simd.load_array(panel));
        }
        let [old_maximum, _] = rows.state[first + t];
        let maximum = larger(old_maximum, reduce_pairwise(simd.to_array(maximum), larger));
        // If all scores so far are −∞, the code subtracts 0 instead of the maximum, because −∞ − −∞ is NaN.
        (old_maxima[t], new_maxima[t]) =
            (old_maximum, if maximum == f32::NEG_INFINITY { 0.0 } else { maximum });
        rows.state[first + t][0] = maximum;
    }
    let mut rescale: [f32; LANES] = [0.0; LANES];
    for t in 0..LANES {
        rescale[t] = exp_as::<L>(old_maxima[t] - new_maxima[t]);
    }
    for (t, row_scores) in row_scores.iter_mut().enumerate() {
        let mut sums = [0.0f32; LANES];
        for panel in &mut row_scores.as_chunks_mut::<LANES>().0[..panels] {
            for (sum, x) in sums.iter_mut().zip(panel) {
                *x = exp_as::<L>(*x - new_maxima[t]);
                *sum += *x;
            }
        }
        let [_, sum] = &mut rows.state[first + t];
        *sum = multiply_add_as::<L>(*sum, rescale[t], reduce_pairwise(sums, plus));
    }
    let width = rows.sums.len() / rows.visible.len();
    let weights: [&[f32]; T] = std::array::from_fn(|t| &row_scores[t][..visible_keys.end]);
    let vectors = values.len() / P::PART_BYTES * P::PART_VECTORS;
    let mut vector = 0;
    while vector < vectors {
        macro_rules! add_weighted_values {
            ($n:literal) => {{
                let at = |n: usize, t: usize| (first + t) * width + (vector + n) * LANES;
                let mut sums = [[simd.zero(); T]; $n];
                for (n, sums) in sums.iter_mut().enumerate() {
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let before = rows.sums[at(n, t)..].first_chunk().expect("a vector");
                        *sum = simd.multiply(simd.load_array(before), simd.splat(rescale[t]));
                    }
                }
                let begin = visible_keys.start;
                P::add_weighted_values::<L, T, $n>(
                    simd, weights, begin, values, vector, rows.ahead, &mut sums,
                );
                for (n, sums) in sums.into_iter().enumerate() {
                    for (t, sum) in sums.into_iter().enumerate() {
                        *rows.sums[at(n, t)..].first_chunk_mut().expect("a vector") = simd.to_array(sum);
                    }
                }
                vector += $n;
            }};
        }
        match (L::ACCUMULATORS / T).min(P::MAX_VECTORS).min(vectors - vector) {
            0 | 1 => add_weighted_values!(1),
            2 | 3 => add_weighted_values!(2),
            _ => add_weighted_values!(4),
        }
    }
}

#[inline(always)]
fn exp_as<L: Lanes>(x: f32) -> f32 {
    if L::FUSED { exp::<true>(x) } else { exp::<false>(x) }
}
