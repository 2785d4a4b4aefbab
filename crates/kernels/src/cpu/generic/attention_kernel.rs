//! The inner loops of attention over pages of keys and values, inlined into functions of each instruction set.
//!
//! ```text
//! for each page, for up to four or eight rows (queries of heads that share keys and values) at a time:
//!     s ← scores of the page's 64 keys, −∞ where a row may not look
//!     m' ← max(m, max s);  l ← l · e^(m − m') + Σ e^(s − m');  o ← o · e^(m − m') + Σ e^(s − m') v;  m ← m'
//! o ← o / l
//! ```
//!
//! Source: Dao et al., FlashAttention, arXiv 2205.14135. Pages begin at fixed positions and every sum has its own order,
//! so a row's result does not depend on what is computed beside it.
//!
//! Figures and commands: docs/performance.md, "Attention".

use super::lanes::Lanes;
use super::loops::{exp, higher, multiply_add, pairwise, plus};
use super::page_formats::{Bytes, Floats, Halves, Nibbles, PageFormat};
use crate::KvFormat;
use crate::kv_format::{LANES, PAGE, PANELS};

#[inline(always)]
fn multiply_add_as<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { multiply_add::<true>(a, b, c) } else { multiply_add::<false>(a, b, c) }
}

/// Query rows with their results so far.
pub(crate) struct QueryRows<'a> {
    /// Floats of a head.
    pub head_size: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Rows × head size.
    pub queries: &'a [f32],
    /// Positions that each may look at.
    pub visible: &'a [usize],
    /// Largest score and sum of each.
    pub state: &'a mut [[f32; 2]],
    /// Rows × head size in whole parts.
    pub sums: &'a mut [f32],
    /// Distance in bytes from a page to the next one, which is prefetched meanwhile; 0 where there is none.
    pub ahead: usize,
}

/// Adds page `at`, its keys and values in `format`, to all rows.
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
        KvFormat::F32 => page::<L, Floats>(simd, rows, at, keys, values),
        KvFormat::F16 => page::<L, Halves>(simd, rows, at, keys, values),
        KvFormat::Q8_0 => page::<L, Bytes>(simd, rows, at, keys, values),
        KvFormat::Q4_0 => page::<L, Nibbles>(simd, rows, at, keys, values),
    }
}

#[inline(always)]
fn page<L: Lanes, P: PageFormat>(simd: L, rows: &mut QueryRows, page: usize, keys: &[u8], values: &[u8]) {
    let seen = |row: usize| rows.visible[row].saturating_sub(page * PAGE).min(PAGE);
    let mut first = 0;
    while first < rows.visible.len() {
        let seen_here = seen(first);
        // Rows that see the same part of the page: what one may not see must not touch it, be it ever so large.
        let alike =
            (first..rows.visible.len().min(first + L::TOGETHER)).take_while(|&row| seen(row) == seen_here);
        let count = match alike.count() {
            4..8 => 4,
            count => count,
        };
        if seen_here > 0 {
            match count {
                1 => some::<L, P, 1>(simd, rows, first, seen_here, keys, values),
                2 => some::<L, P, 2>(simd, rows, first, seen_here, keys, values),
                3 => some::<L, P, 3>(simd, rows, first, seen_here, keys, values),
                8 if L::TOGETHER == 8 => some::<L, P, 8>(simd, rows, first, seen_here, keys, values),
                _ => some::<L, P, 4>(simd, rows, first, seen_here, keys, values),
            }
        }
        first += count;
    }
    const { assert!(L::TOGETHER == 8 || L::TOGETHER == 4) };
}

#[inline(always)]
fn some<L: Lanes, P: PageFormat, const T: usize>(
    simd: L,
    rows: &mut QueryRows,
    first: usize,
    seen: usize,
    keys: &[u8],
    values: &[u8],
) {
    let size = rows.head_size;
    let queries: [&[f32]; T] = std::array::from_fn(|t| &rows.queries[(first + t) * size..][..size]);
    let mut shares = [[f32::NEG_INFINITY; PAGE]; T];
    let (panels, panel_bytes) = (seen.div_ceil(LANES), keys.len() / PANELS);
    let mut panel = 0;
    while panel < panels {
        macro_rules! scores {
            ($n:literal) => {{
                let some = std::array::from_fn(|n| &keys[(panel + n) * panel_bytes..][..panel_bytes]);
                for scores in P::scores::<L, T, $n>(simd, queries, some, rows.ahead) {
                    for (shares, scores) in shares.iter_mut().zip(scores) {
                        shares.as_chunks_mut().0[panel] =
                            simd.to_array(simd.multiply(scores, simd.splat(rows.scale)));
                    }
                    panel += 1;
                }
            }};
        }
        // Of the last panels some may be past what is seen; they are there.
        match L::SUMS / T {
            0 | 1 => scores!(1),
            2 | 3 => scores!(2),
            _ => scores!(4),
        }
    }
    let (mut tops, mut bases) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
    for (t, shares) in shares.iter_mut().enumerate() {
        shares[seen..].fill(f32::NEG_INFINITY);
        let panels = &shares.as_chunks().0[..panels];
        let mut highest = simd.splat(f32::NEG_INFINITY);
        for panel in panels {
            highest = simd.max(highest, simd.load_array(panel));
        }
        let [top, _] = rows.state[first + t];
        let highest = higher(top, pairwise(simd.to_array(highest), higher));
        // Where all are −∞ so far, nothing is subtracted: −∞ − −∞ is no number.
        (tops[t], bases[t]) = (top, if highest == f32::NEG_INFINITY { 0.0 } else { highest });
        rows.state[first + t][0] = highest;
    }
    let mut shrink: [f32; LANES] = [0.0; LANES];
    for t in 0..LANES {
        shrink[t] = power::<L>(tops[t] - bases[t]);
    }
    for (t, shares) in shares.iter_mut().enumerate() {
        let mut sums = [0.0f32; LANES];
        for panel in &mut shares.as_chunks_mut::<LANES>().0[..panels] {
            for (sum, x) in sums.iter_mut().zip(panel) {
                *x = power::<L>(*x - bases[t]);
                *sum += *x;
            }
        }
        let [_, sum] = &mut rows.state[first + t];
        *sum = multiply_add_as::<L>(*sum, shrink[t], pairwise(sums, plus));
    }
    let width = rows.sums.len() / rows.visible.len();
    let shares: [&[f32]; T] = std::array::from_fn(|t| &shares[t][..seen]);
    let vectors = values.len() / P::PART_BYTES * P::PARTS;
    let mut vector = 0;
    while vector < vectors {
        macro_rules! weigh {
            ($n:literal) => {{
                let at = |n: usize, t: usize| (first + t) * width + (vector + n) * LANES;
                let mut sums = [[simd.zero(); T]; $n];
                for (n, sums) in sums.iter_mut().enumerate() {
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let before = rows.sums[at(n, t)..].first_chunk().expect("a vector");
                        *sum = simd.multiply(simd.load_array(before), simd.splat(shrink[t]));
                    }
                }
                P::weigh::<L, T, $n>(simd, shares, values, vector, rows.ahead, &mut sums);
                for (n, sums) in sums.into_iter().enumerate() {
                    for (t, sum) in sums.into_iter().enumerate() {
                        *rows.sums[at(n, t)..].first_chunk_mut().expect("a vector") = simd.to_array(sum);
                    }
                }
                vector += $n;
            }};
        }
        match (L::SUMS / T).min(P::AT_ONCE).min(vectors - vector) {
            0 | 1 => weigh!(1),
            2 | 3 => weigh!(2),
            _ => weigh!(4),
        }
    }
}

#[inline(always)]
fn power<L: Lanes>(x: f32) -> f32 {
    if L::FUSED { exp::<true>(x) } else { exp::<false>(x) }
}
