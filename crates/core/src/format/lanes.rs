//! Eight numbers that go through one search side by side.
//!
//! Upstream's searches add up a group's elements one after another, so within a group nothing may be reordered
//! without changing bytes. Groups are independent: [`gather`] turns eight of them on their side, one a lane, and
//! every step of a search then is eight equal operations, which the compiler makes vector instructions. The result
//! is the same on every instruction set, because no sum crosses lanes and nothing is fused.

use std::array::from_fn;
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
                Self(from_fn(|i| self.0[i] $operator other.0[i]))
            }
        }
    };
}

lane_by_lane!(Add, add, +);
lane_by_lane!(Sub, sub, -);
lane_by_lane!(Mul, mul, *);
lane_by_lane!(Div, div, /);

impl Neg for Lanes {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(|x| -x))
    }
}

impl Lanes {
    pub const ZERO: Self = Self([0.0; WIDTH]);

    /// The same number in every lane.
    #[inline(always)]
    pub fn all(x: f32) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    pub fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    pub fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }

    /// Rounded to the nearest integer, ties to even, for magnitudes up to 2²².
    #[inline(always)]
    pub fn nearest(self) -> Self {
        Self(self.0.map(super::search::nearest))
    }

    /// Kept inside `low..=high`.
    #[inline(always)]
    pub fn clamp(self, low: f32, high: f32) -> Self {
        let at_least = |x: f32| if x < low { low } else { x };
        Self(self.0.map(|x| {
            let x = at_least(x);
            if x > high { high } else { x }
        }))
    }

    #[inline(always)]
    pub fn less(self, other: Self) -> Mask {
        Mask(from_fn(|i| u32::from(self.0[i] < other.0[i]).wrapping_neg()))
    }

    #[inline(always)]
    pub fn greater(self, other: Self) -> Mask {
        other.less(self)
    }

    #[inline(always)]
    pub fn equal(self, other: Self) -> Mask {
        Mask(from_fn(|i| u32::from(self.0[i] == other.0[i]).wrapping_neg()))
    }
}

impl Mask {
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] & other.0[i]))
    }

    /// `yes` where the condition holds, else `no`.
    #[inline(always)]
    pub fn select(self, yes: Lanes, no: Lanes) -> Lanes {
        Lanes(from_fn(|i| f32::from_bits(yes.0[i].to_bits() & self.0[i] | no.0[i].to_bits() & !self.0[i])))
    }
}

/// Up to [`WIDTH`] groups of `N` elements, turned on their side: element `j` of group `i` is lane `i` of entry `j`.
/// Lanes without a group are zero.
pub(super) fn gather<const N: usize>(groups: &[f32]) -> [Lanes; N] {
    let mut turned = [Lanes::ZERO; N];
    for (lane, group) in groups.as_chunks::<N>().0.iter().take(WIDTH).enumerate() {
        for (entry, &x) in turned.iter_mut().zip(group) {
            entry.0[lane] = x;
        }
    }
    turned
}

/// [`gather`] undone, for codes: whole numbers from 0 to 255.
pub(super) fn scatter<const N: usize>(turned: [Lanes; N]) -> [[u8; N]; WIDTH] {
    from_fn(|lane| from_fn(|j| turned[j].0[lane] as u8))
}

/// At most [`WIDTH`] blocks of one row.
pub(super) struct Run<'a, const B: usize> {
    /// The blocks' numbers.
    pub x: &'a [f32],
    /// Importance of their columns.
    pub importance: &'a [f32],
    /// Their bytes.
    pub blocks: &'a mut [[u8; B]],
    /// The whole row.
    pub row: &'a [f32],
}

/// Cuts whole rows of blocks of `E` elements in `B` bytes into runs.
pub(super) fn runs<'a, const B: usize, const E: usize>(
    rows: &'a [f32],
    importance: &'a [f32],
    dst: &'a mut [u8],
) -> impl Iterator<Item = Run<'a, B>> {
    let blocks = importance.len() / E;
    assert!(blocks > 0 && importance.len().is_multiple_of(E), "importance has whole blocks");
    assert!(rows.len().is_multiple_of(importance.len()), "rows are as long as their importance");
    assert!(dst.len() == rows.len() / E * B, "bytes and numbers are the same blocks");
    dst.chunks_exact_mut(blocks * B).zip(rows.chunks_exact(importance.len())).flat_map(move |(bytes, row)| {
        let blocks = bytes.as_chunks_mut().0.chunks_mut(WIDTH);
        let columns = row.chunks(WIDTH * E).zip(importance.chunks(WIDTH * E));
        columns.zip(blocks).map(move |((x, importance), blocks)| Run { x, importance, blocks, row })
    })
}
