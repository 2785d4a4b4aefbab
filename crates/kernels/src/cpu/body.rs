//! The inner loops as plain Rust over fixed arrays of lanes, inlined into functions of each instruction set.
//!
//! `FUSED` says whether the instruction set multiplies and adds in one step; without it `mul_add` would be a call.

use super::Take;

/// Lanes that a sum is spread over: enough for four vectors of eight.
const LANES: usize = 32;

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Σ xᵢ yᵢ over 32 lanes, which are then added pairwise.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "a dot product of equal lengths");
    let mut lanes = [0.0f32; LANES];
    let (x, y) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.0.iter().zip(y.0) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = multiply_add::<FUSED>(*x, *y, *lane);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x.1).zip(y.1) {
        *lane = multiply_add::<FUSED>(*x, *y, *lane);
    }
    pairwise(lanes)
}

/// The sum of lanes, a power of two of them: the upper half onto the lower one until one is left.
#[inline(always)]
fn pairwise<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// y += a x.
#[inline(always)]
pub(crate) fn add_scaled<const FUSED: bool>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = multiply_add::<FUSED>(a, *x, *y);
    }
}

/// Lanes of a tile's sums: one vector each.
pub(crate) const TILE_LANES: usize = 8;

/// Products of `W` rows with `X` rows of `columns` numbers, each sum over [`TILE_LANES`] lanes in turn; the lanes are
/// left to [`finish`].
pub(crate) type Tile<const W: usize, const X: usize> = [[[f32; TILE_LANES]; X]; W];

/// The plain form of a tile, over the columns that fill whole lanes.
pub(crate) fn tile<const W: usize, const X: usize>(columns: usize, w: &[f32], x: &[f32]) -> Tile<W, X> {
    let mut sums = [[[0.0f32; TILE_LANES]; X]; W];
    for at in 0..columns / TILE_LANES * TILE_LANES {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, lanes) in sums.iter_mut().enumerate() {
                lanes[at % TILE_LANES] += w[i * columns + at] * x[j * columns + at];
            }
        }
    }
    sums
}

/// The columns after the last whole lanes, and the sum of all.
#[inline(always)]
fn finish<const FUSED: bool>(mut lanes: [f32; TILE_LANES], w: &[f32], x: &[f32]) -> f32 {
    let (w, x) = (w.as_chunks::<TILE_LANES>().1, x.as_chunks::<TILE_LANES>().1);
    for ((lane, w), x) in lanes.iter_mut().zip(w).zip(x) {
        *lane = multiply_add::<FUSED>(*w, *x, *lane);
    }
    pairwise(lanes)
}

/// An instruction set's tiles.
pub(crate) trait Tiles {
    /// As [`tile`].
    fn tile<const W: usize, const X: usize>(columns: usize, w: &[f32], x: &[f32]) -> Tile<W, X>;
}

/// Hands `out` (row of `w`, row of `x`, product) for all rows of both.
#[inline(always)]
pub(crate) fn tiles<const FUSED: bool, T: Tiles>(columns: usize, w: &[f32], x: &[f32], out: Take) {
    const W: usize = 4;
    assert!(w.len().is_multiple_of(columns) && x.len().is_multiple_of(columns), "rows of {columns}");
    let (mut i, rows, n) = (0, w.len() / columns, x.len() / columns);
    while i < rows {
        let four = i + W <= rows;
        let count = if four { W } else { 1 };
        let w = &w[i * columns..][..count * columns];
        let mut j = 0;
        while j < n {
            macro_rules! put {
                ($w:literal, $x:literal) => {{
                    let x = &x[j * columns..][..$x * columns];
                    for (a, row) in T::tile::<$w, $x>(columns, w, x).into_iter().enumerate() {
                        for (b, lanes) in row.into_iter().enumerate() {
                            let (w, x) = (&w[a * columns..][..columns], &x[b * columns..][..columns]);
                            out(i + a, j + b, finish::<FUSED>(lanes, w, x));
                        }
                    }
                    j += $x;
                }};
            }
            match (four, n - j) {
                (true, 1) => put!(4, 1),
                (true, 2) => put!(4, 2),
                (true, _) => put!(4, 3),
                (false, 1) => put!(1, 1),
                (false, 2) => put!(1, 2),
                (false, _) => put!(1, 3),
            }
        }
        i += count;
    }
}
