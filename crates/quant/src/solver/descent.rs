//! Coordinate descent on what is stored: codes, group scales and minima, block scales, one group after another.
//!
//! ```text
//! minimize f(q) = (q − t)ᵀ H (q − t) for each row;   g = H (q − t)
//! sweep: for each block, for each group:
//!            for the scale (and min) as it is, for the closed-form best one under these codes, and for neighbours:
//!                for each code: the one nearest to q_j − g_j / H_jj, until none changes
//!            take what makes f smallest; g ← g + H Δq
//!        d and dmin ← their closed-form best under these codes and integers, if that makes f smaller
//! until a sweep changes little, at most `sweeps`
//! ```
//!
//! Source: coordinate descent over codes as in Behdin et al., QuantEase, arXiv 2309.01885; the moves of scales are
//! exact line searches on the same quadratic. f never rises. Left out: moves of several groups at once.

use super::scales::{Best, Choices, Scales};
use kvant_core::{Block, Codes, FormatRef, Grid, Levels, Scaling};
use kvant_kernels::dense::{self, View};

/// Passes over a group's codes under one scale.
const PASSES: usize = 3;
/// A sweep that changes fewer groups than this share is the last.
const ENOUGH: f64 = 0.01;

/// The quadratic that is made small: the Gram matrix and what is added to its diagonal.
#[derive(Clone, Copy)]
pub struct Quadratic<'a> {
    /// Numbers of a row.
    pub columns: usize,
    /// columns × columns.
    pub gram: &'a [f32],
    /// Added to the diagonal.
    pub ridge: f32,
}

/// Improves the codes of some rows (as many as `target` has, one [`Codes`] a block).
pub fn descend(
    grid: &dyn Grid,
    format: FormatRef,
    quadratic: Quadratic,
    target: &[f32],
    codes: &mut [Codes],
    sweeps: usize,
) {
    let rows = Rows::new(grid, format.block(), quadratic, target, codes);
    pulp::Arch::new().dispatch(Sweeps { rows, sweeps });
}

/// The work as a type, so that it is compiled for each instruction set.
struct Sweeps<'a> {
    rows: Rows<'a>,
    sweeps: usize,
}

impl pulp::NullaryFnOnce for Sweeps<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        for _ in 0..self.sweeps {
            let changed = match self.rows.block.group {
                16 => self.rows.sweep::<16>(),
                32 => self.rows.sweep::<32>(),
                group => unreachable!("no format has groups of {group}"),
            };
            if (changed as f64) < ENOUGH * (self.rows.target_groups()) as f64 {
                break;
            }
        }
    }
}

/// Some rows in work.
struct Rows<'a> {
    grid: &'a dyn Grid,
    levels: Levels,
    table: [f32; 256],
    scaling: Scaling,
    block: Block,
    quadratic: Quadratic<'a>,
    codes: &'a mut [Codes],
    count: usize,
    /// H (q − t), rows × columns.
    gradient: Vec<f32>,
}

/// What a choice comes to.
struct Outcome<const N: usize> {
    change: f32,
    codes: [u8; N],
    values: [f32; N],
}

impl<'a> Rows<'a> {
    fn new(
        grid: &'a dyn Grid,
        block: Block,
        quadratic: Quadratic<'a>,
        target: &[f32],
        codes: &'a mut [Codes],
    ) -> Self {
        let n = quadratic.columns;
        let count = target.len() / n;
        let levels = grid.levels();
        let mut table = [0.0; 256];
        (0..levels.count()).for_each(|c| table[c] = levels.level(c as u8));
        let mut error = vec![0.0; target.len()];
        for (at, (error, codes)) in error.chunks_exact_mut(block.elements).zip(&*codes).enumerate() {
            let target = &target[at * block.elements..];
            error.iter_mut().enumerate().for_each(|(i, e)| *e = codes.value(&levels, i) - target[i]);
        }
        let mut gradient: Vec<f32> = error.iter().map(|e| e * quadratic.ridge).collect();
        let (left, right) = (View::new(&error, count, n, n), View::new(quadratic.gram, n, n, n));
        dense::product(&mut gradient, n, 1.0, 1.0, left, right);
        Self { grid, levels, table, scaling: grid.scaling(), block, quadratic, codes, count, gradient }
    }

    fn target_groups(&self) -> usize {
        self.gradient.len() / self.block.group
    }

    /// One pass over all groups; how many changed.
    #[inline(always)]
    fn sweep<const N: usize>(&mut self) -> usize {
        let (n, elements) = (self.quadratic.columns, self.block.elements);
        let mut changed = 0;
        for b in 0..n / elements {
            for g in 0..elements / N {
                changed += self.group::<N>(b, g);
            }
            if elements > N {
                self.refit_block(b);
            }
        }
        changed
    }

    /// The square of the Gram matrix that belongs to `N` columns from `at` on.
    #[inline(always)]
    fn square<const N: usize>(&self, at: usize) -> [[f32; N]; N] {
        let n = self.quadratic.columns;
        let mut square = [[0.0; N]; N];
        for (i, row) in square.iter_mut().enumerate() {
            row.copy_from_slice(&self.quadratic.gram[(at + i) * n + at..][..N]);
            row[i] += self.quadratic.ridge;
        }
        square
    }

    #[inline(always)]
    fn group<const N: usize>(&mut self, b: usize, g: usize) -> usize {
        let (n, at) = (self.quadratic.columns, b * self.block.elements + g * N);
        let square = self.square::<N>(at);
        // NaN is no better than zero.
        if !(0..N).all(|i| square[i][i] > 0.0) {
            return 0;
        }
        let mut deltas = vec![0.0f32; self.count * N];
        let mut changed = 0;
        for row in 0..self.count {
            let index = row * (n / self.block.elements) + b;
            let gradient: &[f32; N] = array(&self.gradient[row * n + at..][..N]);
            let codes: &[u8; N] = array(&self.codes[index].codes[g * N..][..N]);
            let now = Scales::of(&self.codes[index], g);
            let values = codes.map(|c| now.factor() * self.table[usize::from(c)] - now.subtracted());
            let mut best = (now, self.choice::<N>(&square, gradient, &values, codes, now));
            for &scales in self.candidates::<N>(&square, gradient, codes, now).as_slice() {
                let outcome = self.choice::<N>(&square, gradient, &values, codes, scales);
                if outcome.change < best.1.change {
                    best = (scales, outcome);
                }
            }
            let (scales, outcome) = best;
            if outcome.change < 0.0 {
                changed += 1;
                let delta: &mut [f32] = &mut deltas[row * N..][..N];
                (0..N).for_each(|i| delta[i] = outcome.values[i] - values[i]);
                let stored = &mut self.codes[index];
                (stored.d, stored.dmin) = (scales.d, scales.dmin);
                (stored.scales[g], stored.mins[g]) = (scales.scale, scales.min);
                stored.codes[g * N..][..N].copy_from_slice(&outcome.codes);
            }
        }
        if changed > 0 {
            self.moved(at, N, &deltas);
        }
        changed
    }

    /// Brings the gradient up to date after `width` columns from `at` on have moved.
    fn moved(&mut self, at: usize, width: usize, deltas: &[f32]) {
        let n = self.quadratic.columns;
        let left = View::new(deltas, self.count, width, width);
        let right = View::new(&self.quadratic.gram[at * n..], width, n, n);
        dense::product(&mut self.gradient, n, 1.0, 1.0, left, right);
        for (gradient, deltas) in self.gradient.chunks_exact_mut(n).zip(deltas.chunks_exact(width)) {
            let ridge = self.quadratic.ridge;
            gradient[at..].iter_mut().zip(deltas).for_each(|(g, d)| *g += ridge * d);
        }
    }

    /// The best codes under `scales`, from the present ones by coordinate descent.
    #[inline(always)]
    fn choice<const N: usize>(
        &self,
        square: &[[f32; N]; N],
        gradient: &[f32; N],
        values: &[f32; N],
        codes: &[u8; N],
        scales: Scales,
    ) -> Outcome<N> {
        let (factor, subtracted) = (scales.factor(), scales.subtracted());
        let mut out = Outcome {
            change: 0.0,
            codes: *codes,
            values: codes.map(|c| factor * self.table[usize::from(c)] - subtracted),
        };
        let mut slope = *gradient;
        for j in 0..N {
            let delta = out.values[j] - values[j];
            if delta != 0.0 {
                add_scaled(&mut slope, delta, &square[j]);
            }
        }
        let inverse = if factor != 0.0 { 1.0 / factor } else { 0.0 };
        for _ in 0..PASSES {
            let mut moved = false;
            for j in 0..N {
                let best = out.values[j] - slope[j] / square[j][j];
                let code = self.levels.nearest((best + subtracted) * inverse);
                if code != out.codes[j] && factor != 0.0 {
                    let value = factor * self.table[usize::from(code)] - subtracted;
                    add_scaled(&mut slope, value - out.values[j], &square[j]);
                    (out.codes[j], out.values[j], moved) = (code, value, true);
                }
            }
            if !moved {
                break;
            }
        }
        for j in 0..N {
            out.change += (out.values[j] - values[j]) * (gradient[j] + slope[j]);
        }
        if !out.change.is_finite() {
            out.change = f32::INFINITY;
        }
        out
    }

    /// Other scales worth a try.
    #[inline(always)]
    fn candidates<const N: usize>(
        &self,
        square: &[[f32; N]; N],
        gradient: &[f32; N],
        codes: &[u8; N],
        now: Scales,
    ) -> Choices {
        let level = codes.map(|c| self.table[usize::from(c)]);
        // H l and H 1, and their products.
        let (mut hl, mut h1) = ([0.0f32; N], [0.0f32; N]);
        for j in 0..N {
            add_scaled(&mut hl, level[j], &square[j]);
            add_scaled(&mut h1, 1.0, &square[j]);
        }
        let dot = |a: &[f32; N], b: &[f32; N]| (0..N).fold(0.0f32, |sum, i| sum + a[i] * b[i]);
        let ones = [1.0; N];
        let (gl, g1) = (dot(gradient, &level), dot(gradient, &ones));
        let (lhl, lh1, oh1) = (dot(&level, &hl), dot(&level, &h1), dot(&ones, &h1));
        let symmetric = if lhl > 0.0 { -gl / lhl } else { 0.0 };
        let determinant = lhl * oh1 - lh1 * lh1;
        let (affine_scale, affine_min) = if determinant > 1e-6 * lhl * oh1 {
            ((lh1 * g1 - oh1 * gl) / determinant, (lhl * g1 - lh1 * gl) / determinant)
        } else {
            (symmetric, 0.0)
        };
        let best = Best {
            symmetric: now.factor() + symmetric,
            factor: now.factor() + affine_scale,
            subtracted: now.subtracted() + affine_min,
        };
        Choices::near(self.grid, self.scaling, now, &best)
    }

    /// Moves `d` and `dmin` of one block in every row where that makes the quadratic smaller.
    #[inline(always)]
    fn refit_block(&mut self, b: usize) {
        let (n, elements) = (self.quadratic.columns, self.block.elements);
        let at = b * elements;
        let count = self.count;
        // What a unit of d and of dmin would add to each value.
        let (mut by_d, mut by_min) = (vec![0.0f32; count * elements], vec![0.0f32; count * elements]);
        for row in 0..count {
            let codes = &self.codes[row * (n / elements) + b];
            for i in 0..elements {
                let group = i / self.block.group;
                let level = self.table[usize::from(codes.codes[i])];
                by_d[row * elements + i] = f32::from(codes.scales[group]) * level;
                by_min[row * elements + i] = -f32::from(codes.mins[group]);
            }
        }
        let times_gram = |x: &[f32]| {
            let mut out: Vec<f32> = x.iter().map(|x| x * self.quadratic.ridge).collect();
            let right = View::new(&self.quadratic.gram[at * n + at..], elements, elements, n);
            dense::product(&mut out, elements, 1.0, 1.0, View::new(x, count, elements, elements), right);
            out
        };
        let (h_d, h_min) = (times_gram(&by_d), times_gram(&by_min));
        let mut deltas = vec![0.0f32; count * elements];
        let mut changed = false;
        for row in 0..count {
            let range = row * elements..(row + 1) * elements;
            let gradient = &self.gradient[row * n + at..][..elements];
            let (d, m) = (&by_d[range.clone()], &by_min[range.clone()]);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (gd, gm) = (dot(gradient, d), dot(gradient, m));
            let (dd, dm, mm) =
                (dot(d, &h_d[range.clone()]), dot(m, &h_d[range.clone()]), dot(m, &h_min[range.clone()]));
            let determinant = dd * mm - dm * dm;
            let (step_d, step_m) = if determinant > 1e-6 * dd * mm && mm > 0.0 {
                ((dm * gm - mm * gd) / determinant, (dm * gd - dd * gm) / determinant)
            } else if dd > 0.0 {
                (-gd / dd, 0.0)
            } else {
                continue;
            };
            let codes = &mut self.codes[row * (n / elements) + b];
            let new_d = self.grid.stored(codes.d + step_d as f32);
            let new_min = if mm > 0.0 { self.grid.stored(codes.dmin + step_m as f32) } else { codes.dmin };
            let (x, y) = (f64::from(new_d - codes.d), f64::from(new_min - codes.dmin));
            let change = 2.0 * (x * gd + y * gm) + x * x * dd + 2.0 * x * y * dm + y * y * mm;
            if change < 0.0 && new_d != 0.0 && new_d.is_finite() && new_min.is_finite() && new_min >= 0.0 {
                for (i, delta) in deltas[range].iter_mut().enumerate() {
                    *delta = x as f32 * d[i] + y as f32 * m[i];
                }
                (codes.d, codes.dmin) = (new_d, new_min);
                changed = true;
            }
        }
        if changed {
            self.moved(at, elements, &deltas);
        }
    }
}

#[inline(always)]
fn add_scaled<const N: usize>(y: &mut [f32; N], a: f32, x: &[f32; N]) {
    for i in 0..N {
        y[i] += a * x[i];
    }
}

fn array<T, const N: usize>(slice: &[T]) -> &[T; N] {
    slice.try_into().expect("a group of this size")
}
