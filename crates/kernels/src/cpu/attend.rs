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
//! `cargo bench -p kvant-kernels --bench attention`, two cores of machine Z (docs/performance.md), AVX-512, keys and values in
//! `f16`, heads of 64 that four rows share:
//!
//! ```text
//!                                                     one query after 2048 | 512 queries, of the f32 peak
//! arrays that the compiler makes vectors of, 4 sums                15 GB/s |                        31 %
//! vectors by name, 16 sums                                         23 GB/s |                        48 %
//! the next page asked for line by line, not a quarter at once      35 GB/s |                        48 %
//! highest scores in vectors                                        35 GB/s |                        52 %
//! ```

mod formats;

use super::body::{exp, higher, multiply_add, pairwise, plus};
use crate::KvFormat;
use crate::key_values::{LANES, PAGE, PANELS};
use formats::{Bytes, Floats, Halves, Nibbles, PageFormat};

/// Sixteen numbers in an instruction set's vectors. They have to be called by name: left to itself, the compiler takes rows
/// for lanes.
pub(crate) trait Lanes {
    type Sixteen: Copy;
    /// Whether it multiplies and adds in one step.
    const FUSED: bool;
    /// Rows that read a page's keys and values together, at most: 8 or 4.
    const TOGETHER: usize;
    /// Sums of sixteen numbers that its registers hold beside what is added to them.
    const SUMS: usize;

    fn zero() -> Self::Sixteen;
    fn splat(x: f32) -> Self::Sixteen;
    fn load(numbers: &[f32; LANES]) -> Self::Sixteen;
    fn store(a: Self::Sixteen) -> [f32; LANES];
    /// Little-endian numbers.
    fn floats(bytes: &[u8; 4 * LANES]) -> Self::Sixteen;
    /// Half floats.
    fn halves(bytes: &[u8; 2 * LANES]) -> Self::Sixteen;
    /// Signed bytes.
    fn bytes(codes: &[u8; LANES]) -> Self::Sixteen;
    /// The lower or the upper four bits, less eight.
    fn nibbles(codes: &[u8; LANES], upper: bool) -> Self::Sixteen;
    fn multiply(a: Self::Sixteen, b: Self::Sixteen) -> Self::Sixteen;
    /// b where it is higher than a.
    fn higher(a: Self::Sixteen, b: Self::Sixteen) -> Self::Sixteen;
    /// a · b + c.
    fn multiply_add(a: Self::Sixteen, b: Self::Sixteen, c: Self::Sixteen) -> Self::Sixteen;
}

#[inline(always)]
fn multiply_add_as<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { multiply_add::<true>(a, b, c) } else { multiply_add::<false>(a, b, c) }
}

/// Rows with their results so far.
pub(crate) struct Rows<'a> {
    /// [f32; LANES] of a head.
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
    /// How many bytes behind a page the next one lies, which is asked for meanwhile; 0 where none is.
    pub ahead: usize,
}

/// Adds page `page`, its keys and values in `format`, to all rows.
#[inline(always)]
pub(crate) fn dispatch<L: Lanes>(format: KvFormat, rows: &mut Rows, at: usize, keys: &[u8], values: &[u8]) {
    match format {
        KvFormat::F32 => page::<L, Floats>(rows, at, keys, values),
        KvFormat::F16 => page::<L, Halves>(rows, at, keys, values),
        KvFormat::Q8_0 => page::<L, Bytes>(rows, at, keys, values),
        KvFormat::Q4_0 => page::<L, Nibbles>(rows, at, keys, values),
    }
}

#[inline(always)]
fn page<L: Lanes, P: PageFormat>(rows: &mut Rows, page: usize, keys: &[u8], values: &[u8]) {
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
                1 => some::<L, P, 1>(rows, first, seen_here, keys, values),
                2 => some::<L, P, 2>(rows, first, seen_here, keys, values),
                3 => some::<L, P, 3>(rows, first, seen_here, keys, values),
                8 if L::TOGETHER == 8 => some::<L, P, 8>(rows, first, seen_here, keys, values),
                _ => some::<L, P, 4>(rows, first, seen_here, keys, values),
            }
        }
        first += count;
    }
    const { assert!(L::TOGETHER == 8 || L::TOGETHER == 4) };
}

#[inline(always)]
fn some<L: Lanes, P: PageFormat, const T: usize>(
    rows: &mut Rows,
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
                for scores in P::scores::<L, T, $n>(queries, some, rows.ahead) {
                    for (shares, scores) in shares.iter_mut().zip(scores) {
                        shares.as_chunks_mut().0[panel] = L::store(L::multiply(scores, L::splat(rows.scale)));
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
        let mut highest = L::splat(f32::NEG_INFINITY);
        for panel in panels {
            highest = L::higher(highest, L::load(panel));
        }
        let [top, _] = rows.state[first + t];
        let highest = higher(top, pairwise(L::store(highest), higher));
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
                let mut sums = [[L::zero(); T]; $n];
                for (n, sums) in sums.iter_mut().enumerate() {
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let before = rows.sums[at(n, t)..].first_chunk().expect("a vector");
                        *sum = L::multiply(L::load(before), L::splat(shrink[t]));
                    }
                }
                P::weigh::<L, T, $n>(shares, values, vector, rows.ahead, &mut sums);
                for (n, sums) in sums.into_iter().enumerate() {
                    for (t, sum) in sums.into_iter().enumerate() {
                        *rows.sums[at(n, t)..].first_chunk_mut().expect("a vector") = L::store(sum);
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
