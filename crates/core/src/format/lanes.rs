//! SIMD lanes for the scale searches: eight groups in parallel.
//!
//! Upstream's searches sum the elements of a group sequentially. Another order within a group would change the encoded
//! bytes. But groups are independent. [`to_lanes`] transposes eight groups, so that each lane has one group. Each step
//! of a search is then the same operation in eight lanes, which the compiler vectorizes. The result is the same on each
//! instruction set, because no sum crosses lanes and there is no fused multiply-add.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// The number of lanes.
pub(super) const WIDTH: usize = 8;

/// One float per lane.
#[derive(Clone, Copy)]
pub(super) struct Lanes(pub [f32; WIDTH]);

/// One condition per lane: all bits set if it is true, else none.
#[derive(Clone, Copy)]
pub(super) struct Mask([u32; WIDTH]);

macro_rules! lane_by_lane {
    ($trait:ident, $method:ident, $operator:tt) => {
        impl $trait for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                let mut out = self;
                for (a, b) in out.0.iter_mut().zip(other.0) {
                    *a $operator b;
                }
                out
            }
        }
    };
}

lane_by_lane!(Add, add, +=);
lane_by_lane!(Sub, sub, -=);
lane_by_lane!(Mul, mul, *=);
lane_by_lane!(Div, div, /=);

impl Neg for Lanes {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        self.map(|x| -x)
    }
}

impl Lanes {
    pub const ZERO: Self = Self([0.0; WIDTH]);

    /// Applies `function` to each lane. All functions here are plain loops, because the compiler does not always inline
    /// `[T; N]::map` and its closure. Without inlining, they are not compiled for the caller's instruction set.
    #[inline(always)]
    pub fn map(mut self, function: impl Fn(f32) -> f32) -> Self {
        for x in &mut self.0 {
            *x = function(*x);
        }
        self
    }

    #[inline(always)]
    fn compare(self, other: Self, holds: impl Fn(f32, f32) -> bool) -> Mask {
        let mut mask = Mask([0; WIDTH]);
        for (m, (a, b)) in mask.0.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            *m = u32::from(holds(a, b)).wrapping_neg();
        }
        mask
    }

    /// Copies `x` to all lanes.
    #[inline(always)]
    pub fn all(x: f32) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    pub fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    pub fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }

    /// Rounds to the nearest integer, ties to even, for magnitudes up to 2²².
    #[inline(always)]
    pub fn nearest(self) -> Self {
        self.map(super::search::nearest)
    }

    /// Clamps to `low..=high`.
    #[inline(always)]
    pub fn clamp(self, low: f32, high: f32) -> Self {
        let at_least = |x: f32| if x < low { low } else { x };
        self.map(|x| {
            let x = at_least(x);
            if x > high { high } else { x }
        })
    }

    #[inline(always)]
    pub fn less(self, other: Self) -> Mask {
        self.compare(other, |a, b| a < b)
    }

    #[inline(always)]
    pub fn greater(self, other: Self) -> Mask {
        other.less(self)
    }

    #[inline(always)]
    pub fn equal(self, other: Self) -> Mask {
        self.compare(other, |a, b| a == b)
    }
}

impl Mask {
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a &= b;
        }
        out
    }

    /// Takes `yes` in the lanes where the condition is true, else `no`.
    #[inline(always)]
    pub fn select(self, yes: Lanes, no: Lanes) -> Lanes {
        let mut out = no;
        for (out, (yes, mask)) in out.0.iter_mut().zip(yes.0.into_iter().zip(self.0)) {
            *out = f32::from_bits(yes.to_bits() & mask | out.to_bits() & !mask);
        }
        out
    }
}

/// Transposes up to [`WIDTH`] groups of `N` elements: element `j` of group `i` goes to lane `i` of entry `j`. Lanes
/// without a group are zero.
#[inline(always)]
pub(super) fn to_lanes<const N: usize>(groups: &[f32]) -> [Lanes; N] {
    let mut transposed = [Lanes::ZERO; N];
    for (lane, group) in groups.as_chunks::<N>().0.iter().take(WIDTH).enumerate() {
        for (entry, &x) in transposed.iter_mut().zip(group) {
            entry.0[lane] = x;
        }
    }
    transposed
}

/// Applies `function` to each entry.
#[inline(always)]
pub(super) fn map_lanes<const N: usize>(
    transposed: &[Lanes; N],
    function: impl Fn(Lanes) -> Lanes,
) -> [Lanes; N] {
    let mut out = *transposed;
    for x in &mut out {
        *x = function(*x);
    }
    out
}

/// Transposes codes back to groups; the inverse of [`to_lanes`] for integers from 0 to 255.
#[inline(always)]
pub(super) fn codes_from_lanes<const N: usize>(transposed: [Lanes; N]) -> [[u8; N]; WIDTH] {
    let mut codes = [[0; N]; WIDTH];
    for (j, entry) in transposed.iter().enumerate() {
        for (codes, &x) in codes.iter_mut().zip(&entry.0) {
            codes[j] = super::search::byte(x);
        }
    }
    codes
}

/// At most [`WIDTH`] blocks of one row.
pub(super) struct Run<'a, const B: usize> {
    /// The values of the blocks.
    pub x: &'a [f32],
    /// The importance of their columns.
    pub importance: &'a [f32],
    /// The output bytes.
    pub blocks: &'a mut [[u8; B]],
    /// The mean square of the whole row.
    pub mean_square: f32,
}

/// Calls `work` on each run of blocks of whole rows. A block has `E` elements and `B` bytes. The function is compiled
/// for each instruction set.
pub(super) fn each_run<const B: usize, const E: usize>(
    rows: &[f32],
    importance: &[f32],
    dst: &mut [u8],
    work: impl Fn(Run<B>),
) {
    pulp::Arch::new().dispatch(EachRun::<_, B, E> { rows, importance, dst, work });
}

/// [`each_run`] as a type, for the same reason as [`super::EachBlock`].
struct EachRun<'a, W, const B: usize, const E: usize> {
    rows: &'a [f32],
    importance: &'a [f32],
    dst: &'a mut [u8],
    work: W,
}

impl<W: Fn(Run<B>), const B: usize, const E: usize> pulp::NullaryFnOnce for EachRun<'_, W, B, E> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { rows, importance, dst, work } = self;
        let blocks = importance.len() / E;
        assert!(blocks > 0 && importance.len().is_multiple_of(E), "importance has whole blocks");
        assert!(rows.len().is_multiple_of(importance.len()), "rows are as long as their importance");
        assert!(dst.len() == rows.len() / E * B, "bytes and numbers are the same blocks");
        for (bytes, row) in dst.chunks_exact_mut(blocks * B).zip(rows.chunks_exact(importance.len())) {
            let mean_square = super::search::sum_of_squares(row) / row.len() as f32;
            let columns = row.chunks(WIDTH * E).zip(importance.chunks(WIDTH * E));
            for ((x, importance), blocks) in columns.zip(bytes.as_chunks_mut().0.chunks_mut(WIDTH)) {
                work(Run { x, importance, blocks, mean_square });
            }
        }
    }
}
