//! Alternating least squares on the stored scales, minima and codes of each block. The objective ignores products of
//! the errors of different columns: its Hessian is diagonal.
//!
//! ```text
//! x_j: original weight of column j;  v_j: its stored value;  w_j: weight of column j
//! minimize Σ w_j (v_j − x_j)² for each block; start from the values v that the encoder's search found
//! repeat:
//!     for each group:
//!         compute the closed-form best scale (and min) for the current codes
//!         for the stored value of this scale (and min), and for its neighbours:
//!             every code ← the nearest one under this scale (and min)
//!         keep the scale, min and codes with the smallest sum
//!     d and dmin ← their closed-form best for the current codes and integers, if the sum gets smaller
//! until nothing changes, at most MAX_ROUNDS times
//! ```
//!
//! Here d is the block's scale and dmin the block's scale of minima. The encoder's search rounds the group scales first
//! and d afterwards. This file chooses the group scales for the stored d, and d for the stored group scales. The sum
//! never rises. Sums have a fixed order and use no fused multiply-add, so the bytes are equal on every instruction set.
//! Source: alternating least squares, as in Lloyd's method. The steps are those of [`super::descent`] with a diagonal
//! matrix. Not covered here: correlations between columns (see [`super::descent`]); group sizes other than 16, 32, 64
//! and 128.

use super::scales::{Best, Choices, Scales};
use super::sorted::SortedLevels;
use kvant_core::{Block, Codes, FormatRef, Grid, Levels, Scaling};

/// Maximum number of rounds over a block.
const MAX_ROUNDS: usize = 2;
/// Number of partial sums in [`sum`].
const LANES: usize = 8;

/// Improves `bytes`, which encode the whole rows `x` in `format`. `weights` has one weight w_j for each column.
pub fn refine(format: FormatRef, grid: &dyn Grid, x: &[f32], weights: &[f32], bytes: &mut [u8]) {
    pulp::Arch::new().dispatch(Rows { search: Search::new(grid, format.block()), x, weights, bytes });
}

/// The arguments of the work. This is a type because `pulp` compiles the method `call` of a type for each instruction
/// set.
struct Rows<'a> {
    search: Search<'a>,
    x: &'a [f32],
    weights: &'a [f32],
    bytes: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Block { elements, group, bytes } = self.search.block;
        let mut codes = Codes::new(self.search.block);
        for (index, bytes) in self.bytes.chunks_exact_mut(bytes).enumerate() {
            let at = index * elements;
            let (x, w) = (&self.x[at..][..elements], &self.weights[at % self.weights.len()..][..elements]);
            self.search.grid.unpack(bytes, &mut codes);
            let changed = match group {
                16 => self.search.block::<16>(x, w, &mut codes),
                32 => self.search.block::<32>(x, w, &mut codes),
                64 => self.search.block::<64>(x, w, &mut codes),
                128 => self.search.block::<128>(x, w, &mut codes),
                // Blocks with other group sizes keep their bytes.
                _ => false,
            };
            if changed {
                self.search.grid.pack(&codes, bytes);
            }
        }
    }
}

/// The search for better scales and codes of the blocks of one format.
struct Search<'a> {
    grid: &'a dyn Grid,
    block: Block,
    levels: Levels,
    sorted: SortedLevels,
    /// The level of each code; 0 for numbers that are not a code.
    table: [f32; 256],
    scaling: Scaling,
}

/// Weighted sums over a group with levels l, original values x and column weights w. The closed-form best scale and min
/// for these levels follow from these sums.
struct Moments {
    /// Σ w l².
    ll: f32,
    /// Σ w l.
    l: f32,
    /// Σ w.
    one: f32,
    /// Σ w x l.
    xl: f32,
    /// Σ w x.
    x: f32,
}

impl<'a> Search<'a> {
    fn new(grid: &'a dyn Grid, block: Block) -> Self {
        let levels = grid.levels();
        let sorted = SortedLevels::new(levels);
        let mut table = [0.0; 256];
        (0..levels.count()).for_each(|code| table[code] = levels.level(code as u8));
        Self { grid, block, levels, sorted, table, scaling: grid.scaling() }
    }

    #[inline(always)]
    fn block<const N: usize>(&self, x: &[f32], w: &[f32], codes: &mut Codes) -> bool {
        let (xs, ws) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
        // If a sum of squares is finite, all of its values are finite. The sum has no early exit, so that the compiler
        // vectorizes it.
        let squares: f32 = xs.iter().zip(ws).map(|(x, w)| sum::<N>(|i| w[i] * x[i] * x[i])).sum();
        if !squares.is_finite() || !codes.d.is_finite() || !codes.dmin.is_finite() {
            return false;
        }
        let mut changed = false;
        for _ in 0..MAX_ROUNDS {
            let mut moved = false;
            for (g, (x, w)) in xs.iter().zip(ws).enumerate() {
                moved |= self.group(g, x, w, codes);
            }
            if xs.len() > 1 {
                moved |= self.refit(xs, ws, codes);
            }
            if !moved {
                break;
            }
            changed = true;
        }
        changed
    }

    /// Returns the level of each code of group `group`.
    #[inline(always)]
    fn levels_of<const N: usize>(&self, group: usize, codes: &Codes) -> [f32; N] {
        let mut level = [0.0; N];
        for (level, &code) in level.iter_mut().zip(&codes.codes[group * N..][..N]) {
            *level = self.table[usize::from(code)];
        }
        level
    }

    /// Replaces the scales and codes of group `g` if other scales and codes have a smaller error. Returns true if they
    /// were replaced.
    #[inline(always)]
    fn group<const N: usize>(&self, g: usize, x: &[f32; N], w: &[f32; N], codes: &mut Codes) -> bool {
        let current = Scales::of(codes, g);
        let level = self.levels_of::<N>(g, codes);
        let mut best = (error(x, w, &level, current), current, level);
        for &scales in self.candidates(&moments(x, w, &level), current).as_slice() {
            let level = self.nearest(x, scales);
            let found = error(x, w, &level, scales);
            if found < best.0 {
                best = (found, scales, level);
            }
        }
        let (_, scales, level) = best;
        if scales == current {
            return false;
        }
        (codes.d, codes.dmin) = (scales.d, scales.dmin);
        (codes.scales[g], codes.mins[g]) = (scales.scale, scales.min);
        for (code, level) in codes.codes[g * N..][..N].iter_mut().zip(level) {
            *code = self.levels.nearest(level);
        }
        true
    }

    /// Returns the level nearest to each value of `x` under `scales`.
    #[inline(always)]
    fn nearest<const N: usize>(&self, x: &[f32; N], scales: Scales) -> [f32; N] {
        let (factor, subtracted) = (scales.factor(), scales.subtracted());
        let inverse = if factor != 0.0 { 1.0 / factor } else { 0.0 };
        let mut scaled = [0.0; N];
        for i in 0..N {
            scaled[i] = (x[i] + subtracted) * inverse;
        }
        self.sorted.nearest(&scaled)
    }

    /// Returns the alternatives to the scales `current`, from the sums of the group.
    #[inline(always)]
    fn candidates(&self, sums: &Moments, current: Scales) -> Choices {
        let Moments { ll, l, one, xl, x } = *sums;
        let symmetric = if ll > 0.0 { xl / ll } else { 0.0 };
        let determinant = ll * one - l * l;
        let (factor, subtracted) = if determinant > 1e-6 * ll * one {
            ((one * xl - l * x) / determinant, (l * xl - ll * x) / determinant)
        } else {
            (symmetric, 0.0)
        };
        Choices::near(self.grid, self.scaling, current, &Best { symmetric, factor, subtracted })
    }

    /// Fits `d` and `dmin` to the current codes, integer scales and integer minima. Returns true if the sum got
    /// smaller.
    #[inline(always)]
    fn refit<const N: usize>(&self, xs: &[[f32; N]], ws: &[[f32; N]], codes: &mut Codes) -> bool {
        // A value is d · scale · level − dmin · min. Its derivative is scale · level with respect to d, and min with
        // respect to −dmin. dd, dm and mm are the weighted products of these derivatives with each other. xd and xm are
        // their weighted products with x. All five are summed over the block.
        let (mut dd, mut dm, mut mm, mut xd, mut xm) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        let mut levels = Vec::with_capacity(xs.len());
        for (g, (x, w)) in xs.iter().zip(ws).enumerate() {
            let level = self.levels_of::<N>(g, codes);
            let (s, m) = (f32::from(codes.scales[g]), f32::from(codes.mins[g]));
            let sums = moments(x, w, &level);
            dd += s * s * sums.ll;
            dm += s * m * sums.l;
            mm += m * m * sums.one;
            xd += s * sums.xl;
            xm += m * sums.x;
            levels.push(level);
        }
        let determinant = dd * mm - dm * dm;
        let (d, dmin) = if mm > 0.0 && determinant > 1e-6 * dd * mm {
            ((mm * xd - dm * xm) / determinant, (dm * xd - dd * xm) / determinant)
        } else if dd > 0.0 {
            ((xd + codes.dmin * dm) / dd, codes.dmin)
        } else {
            return false;
        };
        let (d, dmin) = (self.grid.stored(d), self.grid.stored(dmin));
        let usable = d != 0.0 && d.is_finite() && dmin.is_finite() && dmin >= 0.0;
        if !usable || (d, dmin) == (codes.d, codes.dmin) {
            return false;
        }
        let total = |d: f32, dmin: f32| {
            let of = |g: usize| {
                let scales = Scales { d, dmin, scale: codes.scales[g], min: codes.mins[g] };
                error(&xs[g], &ws[g], &levels[g], scales)
            };
            (0..xs.len()).map(of).sum::<f32>()
        };
        let better = total(d, dmin) < total(codes.d, codes.dmin);
        if better {
            (codes.d, codes.dmin) = (d, dmin);
        }
        better
    }
}

/// Returns Σ w (v − x)², where v are the values with the levels `level` under `scales`.
#[inline(always)]
fn error<const N: usize>(x: &[f32; N], w: &[f32; N], level: &[f32; N], scales: Scales) -> f32 {
    let (factor, subtracted) = (scales.factor(), scales.subtracted());
    let term = |i: usize| {
        let error = factor * level[i] - subtracted - x[i];
        w[i] * (error * error)
    };
    sum::<N>(term)
}

#[inline(always)]
fn moments<const N: usize>(x: &[f32; N], w: &[f32; N], level: &[f32; N]) -> Moments {
    Moments {
        ll: sum::<N>(|i| w[i] * level[i] * level[i]),
        l: sum::<N>(|i| w[i] * level[i]),
        one: sum::<N>(|i| w[i]),
        xl: sum::<N>(|i| w[i] * level[i] * x[i]),
        x: sum::<N>(|i| w[i] * x[i]),
    }
}

/// Sums the `N` results of `term` in [`LANES`] partial sums, always in the same order. `N` is a multiple of [`LANES`].
#[inline(always)]
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for start in (0..N).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    lanes.iter().sum()
}
