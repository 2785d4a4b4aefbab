//! Coordinate descent on the stored values, one group after the other: codes, group scales and minima, and block
//! scales.
//!
//! ```text
//! q: stored values of a row;  t: its target;  H: Gram matrix + ridge on the diagonal
//! d: scale of a block;  dmin: scale of its minima
//! minimize f(q) = (q − t)ᵀ H (q − t) for each row;   g = H (q − t)
//! sweep: for each block:
//!            for each group:
//!                for the current scale (and min), the closed-form best one for these codes, and neighbours:
//!                    each code j ← the one nearest to q_j − g_j / H_jj; repeat until no code changes
//!                keep the scale, min and codes with the smallest f; g ← g + H Δq
//!            d and dmin ← their closed-form best for the current codes and integers, if f gets smaller
//! until a sweep changes few groups, at most `sweeps` times
//! ```
//!
//! f never rises. Source: coordinate descent over codes as in Behdin et al., QuantEase, arXiv 2309.01885. The steps in
//! the scales are exact line searches on the same quadratic form. Not covered here: joint steps of several groups;
//! group sizes other than 16, 32, 64 and 128, whose codes stay unchanged.

use super::scales::{Best, Choices, Scales};
use super::sorted::SortedLevels;
use kvant_core::{Block, Codes, FormatRef, Grid, Levels, Scaling};
use kvant_kernels::Backend;
use kvant_kernels::dense::{self, View};
use std::array::from_fn;

/// Number of rows that are processed in parallel, one row in each lane of a vector register.
const LANES: usize = 8;
/// Maximum number of passes over the codes of a group under one scale.
const MAX_PASSES: usize = 3;
/// The descent ends after a sweep that changes less than this share of the groups.
const MIN_CHANGED_SHARE: f64 = 0.01;

/// The quadratic form f to minimize. Its matrix H is the Gram matrix plus the ridge on the diagonal.
#[derive(Clone, Copy)]
pub struct Quadratic<'a> {
    /// Number of values of a row.
    pub columns: usize,
    /// The Gram matrix, columns × columns.
    pub gram: &'a [f32],
    /// The value that is added to each diagonal element.
    pub ridge: f32,
}

/// Improves the codes of some rows. `target` is rows × columns. `codes` has one [`Codes`] for each block, row by row.
/// `sweeps` is the maximum number of sweeps.
pub fn descend(
    backend: &Backend,
    grid: &dyn Grid,
    format: FormatRef,
    quadratic: Quadratic,
    target: &[f32],
    codes: &mut [Codes],
    sweeps: usize,
) {
    let rows = Rows::new(backend, grid, format.block(), quadratic, target, codes);
    pulp::Arch::new().dispatch(Sweeps { rows, sweeps });
}

/// The arguments of the work. This is a type because `pulp` compiles the method `call` of a type for each instruction
/// set.
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
                64 => self.rows.sweep::<64>(),
                128 => self.rows.sweep::<128>(),
                // Other group sizes keep their codes.
                _ => 0,
            };
            if (changed as f64) < MIN_CHANGED_SHARE * (self.rows.group_count()) as f64 {
                break;
            }
        }
    }
}

/// The rows that are optimized, and the gradient of f.
struct Rows<'a> {
    backend: &'a Backend,
    grid: &'a dyn Grid,
    levels: Levels,
    sorted: SortedLevels,
    /// The level of each code; 0 for numbers that are not a code.
    table: [f32; 256],
    scaling: Scaling,
    block: Block,
    quadratic: Quadratic<'a>,
    codes: &'a mut [Codes],
    /// Number of rows.
    count: usize,
    /// Half the gradient of f, H (q − t), rows × columns.
    gradient: Vec<f32>,
}

/// Evaluates `work` for every `j` below `N` (an even number) and for every lane. Each step handles two values of `j`.
/// With one value per step, the compiler vectorizes the loop over `j` instead of the loop over lanes, and needs
/// shuffles.
macro_rules! by_lanes {
    ($j:ident in $n:ident, $lane:ident => $work:expr) => {
        let mut first = 0;
        while first < $n {
            for $j in first..first + 2 {
                for $lane in 0..LANES {
                    $work;
                }
            }
            first += 2;
        }
    };
}

/// One value for each of [`LANES`] rows.
type Lanes = [f32; LANES];

/// One group of each of [`LANES`] rows, one row in each lane. It has `N` codes.
struct Group<const N: usize> {
    /// H (q − t), half the gradient of f.
    gradient: [Lanes; N],
    /// The levels of the current codes.
    level: [Lanes; N],
    /// The current stored values q.
    value: [Lanes; N],
    /// The diagonal block of H that belongs to the group, multiplied by the levels.
    product: [Lanes; N],
}

/// The diagonal block of H that belongs to a group of `N` columns.
struct HessianBlock<const N: usize> {
    rows: [[f32; N]; N],
    /// The inverse of each diagonal element of the block.
    inverse: [f32; N],
    /// The sum of each row of the block.
    sums: [f32; N],
}

/// The best codes for one choice of scales, in each lane.
struct Outcome<const N: usize> {
    /// The change of f relative to the current codes and scales.
    change: Lanes,
    level: [Lanes; N],
    value: [Lanes; N],
}

impl<'a> Rows<'a> {
    fn new(
        backend: &'a Backend,
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
        dense::add_few(backend, &mut gradient, n, &error, View::new(quadratic.gram, n, n, n));
        Self {
            backend,
            grid,
            levels,
            sorted: SortedLevels::new(levels),
            table,
            scaling: grid.scaling(),
            block,
            quadratic,
            codes,
            count,
            gradient,
        }
    }

    fn group_count(&self) -> usize {
        self.gradient.len() / self.block.group
    }

    /// Optimizes every group one time. Returns the number of groups that changed.
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

    /// Returns the diagonal block of H for the `N` columns from column `at` on. Returns `None` if an element of its
    /// diagonal is not positive.
    #[inline(always)]
    fn hessian_block<const N: usize>(&self, at: usize) -> Option<HessianBlock<N>> {
        let n = self.quadratic.columns;
        let mut hessian = HessianBlock { rows: [[0.0; N]; N], inverse: [0.0; N], sums: [0.0; N] };
        for (i, row) in hessian.rows.iter_mut().enumerate() {
            row.copy_from_slice(&self.quadratic.gram[(at + i) * n + at..][..N]);
            row[i] += self.quadratic.ridge;
            hessian.inverse[i] = 1.0 / row[i];
            add_scaled(&mut hessian.sums, 1.0, row);
        }
        // This comparison also rejects NaN.
        (0..N).all(|i| hessian.rows[i][i] > 0.0).then_some(hessian)
    }

    /// Optimizes group `g` of block `b` in every row. Returns the number of rows in which the group changed.
    #[inline(always)]
    fn group<const N: usize>(&mut self, b: usize, g: usize) -> usize {
        let (n, at) = (self.quadratic.columns, b * self.block.elements + g * N);
        let Some(hessian) = self.hessian_block::<N>(at) else { return 0 };
        let mut deltas = vec![0.0f32; self.count * N];
        let mut changed = 0;
        for first in (0..self.count).step_by(LANES) {
            // Unused lanes repeat the last row.
            let rows: [usize; LANES] = from_fn(|lane| (first + lane).min(self.count - 1));
            let indices = rows.map(|row| row * (n / self.block.elements) + b);
            let current = indices.map(|index| Scales::of(&self.codes[index], g));
            let group = self.gather::<N>(&hessian, rows, indices, at, g, &current);
            let choices = self.candidates(&hessian, &group, &current);
            let max_count = choices.iter().map(|c| c.as_slice().len()).max().unwrap_or(0);
            let (mut best, mut best_scales) =
                (self.try_scales(&hessian, &group, &current, &current), current);
            for choice in 0..max_count {
                let scales: [Scales; LANES] =
                    from_fn(|lane| choices[lane].as_slice().get(choice).copied().unwrap_or(current[lane]));
                let outcome = self.try_scales(&hessian, &group, &current, &scales);
                take_better(&mut best, &mut best_scales, &outcome, &scales);
            }
            for (lane, row) in (first..self.count.min(first + LANES)).enumerate() {
                if best.change[lane] < 0.0 {
                    changed += 1;
                    let (stored, scales) = (&mut self.codes[indices[lane]], best_scales[lane]);
                    (stored.d, stored.dmin) = (scales.d, scales.dmin);
                    (stored.scales[g], stored.mins[g]) = (scales.scale, scales.min);
                    for j in 0..N {
                        deltas[row * N + j] = best.value[j][lane] - group.value[j][lane];
                        stored.codes[g * N + j] = self.levels.nearest(best.level[j][lane]);
                    }
                }
            }
        }
        if changed > 0 {
            self.update_gradient(at, N, &deltas);
        }
        changed
    }

    /// Collects the gradient, the levels and the values of a group into lanes, for the rows `rows`. `indices` are the
    /// indices of the blocks in `codes`, `at` is the first column of the group, and `g` is the group's index in its
    /// block.
    #[inline(always)]
    fn gather<const N: usize>(
        &self,
        hessian: &HessianBlock<N>,
        rows: [usize; LANES],
        indices: [usize; LANES],
        at: usize,
        g: usize,
        current: &[Scales; LANES],
    ) -> Group<N> {
        let n = self.quadratic.columns;
        let mut group = Group {
            gradient: [[0.0; LANES]; N],
            level: [[0.0; LANES]; N],
            value: [[0.0; LANES]; N],
            product: [[0.0; LANES]; N],
        };
        for lane in 0..LANES {
            let gradient: &[f32; N] = array(&self.gradient[rows[lane] * n + at..][..N]);
            let codes: &[u8; N] = array(&self.codes[indices[lane]].codes[g * N..][..N]);
            let (factor, subtracted) = (current[lane].factor(), current[lane].subtracted());
            for j in 0..N {
                group.gradient[j][lane] = gradient[j];
                group.level[j][lane] = self.table[usize::from(codes[j])];
                group.value[j][lane] = factor * group.level[j][lane] - subtracted;
            }
        }
        for j in 0..N {
            add_outer(&mut group.product, &group.level[j], &hessian.rows[j]);
        }
        group
    }

    /// Updates the gradient after the `width` columns from column `at` on changed by `deltas`, rows × `width`.
    fn update_gradient(&mut self, at: usize, width: usize, deltas: &[f32]) {
        let n = self.quadratic.columns;
        let right = View::new(&self.quadratic.gram[at * n..], width, n, n);
        dense::add_few(self.backend, &mut self.gradient, n, deltas, right);
        for (gradient, deltas) in self.gradient.chunks_exact_mut(n).zip(deltas.chunks_exact(width)) {
            let ridge = self.quadratic.ridge;
            gradient[at..].iter_mut().zip(deltas).for_each(|(g, d)| *g += ridge * d);
        }
    }

    /// Searches the best codes under the scales `to` by coordinate descent. The search starts from the current codes,
    /// whose scales are `from`.
    #[inline(always)]
    fn try_scales<const N: usize>(
        &self,
        hessian: &HessianBlock<N>,
        group: &Group<N>,
        from: &[Scales; LANES],
        to: &[Scales; LANES],
    ) -> Outcome<N> {
        let (factor, subtracted) = (to.map(Scales::factor), to.map(Scales::subtracted));
        let mut inverse = [0.0; LANES];
        let (mut factor_change, mut subtracted_change) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            inverse[lane] = if factor[lane] != 0.0 { 1.0 / factor[lane] } else { 0.0 };
            factor_change[lane] = factor[lane] - from[lane].factor();
            subtracted_change[lane] = subtracted[lane] - from[lane].subtracted();
        }
        let mut out = Outcome { change: [0.0; LANES], level: group.level, value: group.value };
        let mut gradient = group.gradient;
        by_lanes!(j in N, lane => {
            gradient[j][lane] +=
                factor_change[lane] * group.product[j][lane] - subtracted_change[lane] * hessian.sums[j];
            out.value[j][lane] = factor[lane] * group.level[j][lane] - subtracted[lane];
        });
        for _ in 0..MAX_PASSES {
            let mut moved = false;
            for j in 0..N {
                let mut ideal = [0.0; LANES];
                for lane in 0..LANES {
                    let best = out.value[j][lane] - gradient[j][lane] * hessian.inverse[j];
                    ideal[lane] = (best + subtracted[lane]) * inverse[lane];
                }
                let level = self.sorted.nearest(&ideal);
                let (mut delta, mut any) = ([0.0f32; LANES], 0);
                for lane in 0..LANES {
                    // With a factor of 0, every level gives the same value.
                    let value = factor[lane] * level[lane] - subtracted[lane];
                    delta[lane] = value - out.value[j][lane];
                    any |= delta[lane].to_bits() << 1;
                }
                if any != 0 {
                    moved = true;
                    add_outer(&mut gradient, &delta, &hessian.rows[j]);
                    out.level[j] = level;
                    for lane in 0..LANES {
                        out.value[j][lane] = factor[lane] * level[lane] - subtracted[lane];
                    }
                }
            }
            if !moved {
                break;
            }
        }
        by_lanes!(j in N, lane => {
            let moved = out.value[j][lane] - group.value[j][lane];
            out.change[lane] += moved * (group.gradient[j][lane] + gradient[j][lane]);
        });
        for change in &mut out.change {
            *change = if change.is_finite() { *change } else { f32::INFINITY };
        }
        out
    }

    /// Returns the alternatives to the scales `current`, in each lane.
    #[inline(always)]
    fn candidates<const N: usize>(
        &self,
        hessian: &HessianBlock<N>,
        group: &Group<N>,
        current: &[Scales; LANES],
    ) -> [Choices; LANES] {
        // gl = lᵀg, g1 = 1ᵀg, lhl = lᵀHl and lh1 = lᵀH1. l are the levels, 1 is the vector of ones, g is the gradient,
        // and H is the diagonal block of the group.
        let (mut gl, mut g1, mut lhl, mut lh1) =
            ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        by_lanes!(j in N, lane => {
            let level = group.level[j][lane];
            gl[lane] += level * group.gradient[j][lane];
            g1[lane] += group.gradient[j][lane];
            lhl[lane] += level * group.product[j][lane];
            lh1[lane] += level * hessian.sums[j];
        });
        // oh1 = 1ᵀH1.
        let oh1 = hessian.sums.iter().sum::<f32>();
        from_fn(|i| {
            let (gl, g1, lhl, lh1) = (gl[i], g1[i], lhl[i], lh1[i]);
            let symmetric = if lhl > 0.0 { -gl / lhl } else { 0.0 };
            let determinant = lhl * oh1 - lh1 * lh1;
            let (affine_scale, affine_min) = if determinant > 1e-6 * lhl * oh1 {
                ((lh1 * g1 - oh1 * gl) / determinant, (lhl * g1 - lh1 * gl) / determinant)
            } else {
                (symmetric, 0.0)
            };
            let best = Best {
                symmetric: current[i].factor() + symmetric,
                factor: current[i].factor() + affine_scale,
                subtracted: current[i].subtracted() + affine_min,
            };
            Choices::near(self.grid, self.scaling, current[i], &best)
        })
    }

    /// Fits `d` and `dmin` of block `b` in every row. A row keeps its old `d` and `dmin` if the new ones do not
    /// decrease f.
    #[inline(always)]
    fn refit_block(&mut self, b: usize) {
        let (n, elements) = (self.quadratic.columns, self.block.elements);
        let at = b * elements;
        let count = self.count;
        // The derivative of each value with respect to d and with respect to dmin.
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
            self.update_gradient(at, elements, &deltas);
        }
    }
}

#[inline(always)]
fn add_scaled<const N: usize>(y: &mut [f32; N], a: f32, x: &[f32; N]) {
    for i in 0..N {
        y[i] += a * x[i];
    }
}

/// Adds `x` · `h[j]` to `y[j]` for each `j`, in each lane.
#[inline(always)]
fn add_outer<const N: usize>(y: &mut [Lanes; N], x: &Lanes, h: &[f32; N]) {
    by_lanes!(j in N, lane => y[j][lane] += x[lane] * h[j]);
}

/// Replaces `best` and `best_scales` by `other` and `scales` in each lane in which `other` decreases f more.
#[inline(always)]
fn take_better<const N: usize>(
    best: &mut Outcome<N>,
    best_scales: &mut [Scales; LANES],
    other: &Outcome<N>,
    scales: &[Scales; LANES],
) {
    let mut better = [false; LANES];
    for lane in 0..LANES {
        better[lane] = other.change[lane] < best.change[lane];
        if better[lane] {
            (best.change[lane], best_scales[lane]) = (other.change[lane], scales[lane]);
        }
    }
    if better.contains(&true) {
        by_lanes!(j in N, lane => {
            best.level[j][lane] = if better[lane] { other.level[j][lane] } else { best.level[j][lane] };
            best.value[j][lane] = if better[lane] { other.value[j][lane] } else { best.value[j][lane] };
        });
    }
}

fn array<T, const N: usize>(slice: &[T]) -> &[T; N] {
    slice.try_into().expect("a group of this size")
}
