//! Eight numbers that go through one search side by side.
//!
//! Upstream's searches add up a group's elements one after another, so within a group nothing may be reordered
//! without changing bytes. Groups are independent: [`gather`] turns eight of them on their side, one a lane, and
//! every step of a search then is eight equal operations, which the compiler makes vector instructions. The result
//! is the same on every instruction set, because no sum crosses lanes and nothing is fused.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// How many lanes there are.
pub(super) const WIDTH: usize = 8;

/// One number a lane.
#[derive(Clone, Copy)]
pub(super) struct Lanes(pub [f32; WIDTH]);

/// One condition a lane: all bits set, or none.
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
        self.each(|x| -x)
    }
}

impl Lanes {
    pub const ZERO: Self = Self([0.0; WIDTH]);

    /// `change` of every lane. A plain loop, as everywhere here: the standard library's closures over arrays are not
    /// always inlined, and then lose the caller's instruction set.
    #[inline(always)]
    pub fn each(mut self, change: impl Fn(f32) -> f32) -> Self {
        for x in &mut self.0 {
            *x = change(*x);
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

    /// The same number in every lane.
    #[inline(always)]
    pub fn all(x: f32) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    pub fn abs(self) -> Self {
        self.each(f32::abs)
    }

    #[inline(always)]
    pub fn sqrt(self) -> Self {
        self.each(f32::sqrt)
    }

    /// Rounded to the nearest integer, ties to even, for magnitudes up to 2²².
    #[inline(always)]
    pub fn nearest(self) -> Self {
        self.each(super::search::nearest)
    }

    /// Kept inside `low..=high`.
    #[inline(always)]
    pub fn clamp(self, low: f32, high: f32) -> Self {
        let at_least = |x: f32| if x < low { low } else { x };
        self.each(|x| {
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

    /// `yes` where the condition holds, else `no`.
    #[inline(always)]
    pub fn select(self, yes: Lanes, no: Lanes) -> Lanes {
        let mut out = no;
        for (out, (yes, mask)) in out.0.iter_mut().zip(yes.0.into_iter().zip(self.0)) {
            *out = f32::from_bits(yes.to_bits() & mask | out.to_bits() & !mask);
        }
        out
    }
}

/// Up to [`WIDTH`] groups of `N` elements, turned on their side: element `j` of group `i` is lane `i` of entry `j`.
/// Lanes without a group are zero.
#[inline(always)]
pub(super) fn gather<const N: usize>(groups: &[f32]) -> [Lanes; N] {
    let mut turned = [Lanes::ZERO; N];
    for (lane, group) in groups.as_chunks::<N>().0.iter().take(WIDTH).enumerate() {
        for (entry, &x) in turned.iter_mut().zip(group) {
            entry.0[lane] = x;
        }
    }
    turned
}

/// `change` of every entry.
#[inline(always)]
pub(super) fn each<const N: usize>(turned: &[Lanes; N], change: impl Fn(Lanes) -> Lanes) -> [Lanes; N] {
    let mut out = *turned;
    for x in &mut out {
        *x = change(*x);
    }
    out
}

/// [`gather`] undone, for codes: whole numbers from 0 to 255.
#[inline(always)]
pub(super) fn scatter<const N: usize>(turned: [Lanes; N]) -> [[u8; N]; WIDTH] {
    let mut codes = [[0; N]; WIDTH];
    for (j, entry) in turned.iter().enumerate() {
        for (codes, &x) in codes.iter_mut().zip(&entry.0) {
            codes[j] = super::search::byte(x);
        }
    }
    codes
}

/// At most [`WIDTH`] blocks of one row.
pub(super) struct Run<'a, const B: usize> {
    /// The blocks' numbers.
    pub x: &'a [f32],
    /// Importance of their columns.
    pub importance: &'a [f32],
    /// Their bytes.
    pub blocks: &'a mut [[u8; B]],
    /// Mean square of the whole row.
    pub mean_square: f32,
}

/// Does `work` to each run of whole rows of blocks of `E` elements in `B` bytes, compiled for each instruction set.
pub(super) fn each_run<const B: usize, const E: usize>(
    rows: &[f32],
    importance: &[f32],
    dst: &mut [u8],
    work: impl Fn(Run<B>),
) {
    pulp::Arch::new().dispatch(EachRun::<_, B, E> { rows, importance, dst, work });
}

/// [`each_run`] as a type, as [`super::EachBlock`].
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
