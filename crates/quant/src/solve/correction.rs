//! The target that makes up for what earlier maps did.
//!
//! The float network gives `W xf`; ours would give `W xq`, and its residual stream may have lost `rf − rq` already. With m
//! what ours misses then, the weights that it should have are those that minimize Σ ‖W xq + m − W* xq‖² + λ‖W* − W‖²:
//!
//! ```text
//! W* = W + M (G + λI)⁻¹      M = Σ m xqᵀ, G = Σ xq xqᵀ
//! ```
//!
//! What the stream has lost counts for maps that write to it alone. Source: the first-order condition; the same idea as
//! Qronos (Zhang et al., arXiv 2505.11695) for the input and as error propagation in QEP (Arai and Ichikawa, arXiv
//! 2504.09629). λ is a share of G's mean diagonal: the smaller, the more it trusts the calibration text.

use super::solver::Settings;
use crate::gather::{Missing, Statistics};
use kvant_kernels::{Backend, dense};

/// Rows that are corrected at once: bounds the double-precision copies.
pub const ROWS: usize = 1024;

/// A factored system, ready for any rows.
pub struct Correction<'a> {
    statistics: &'a Statistics,
    /// Cholesky factor of G + λI.
    lower: Vec<f64>,
}

impl<'a> Correction<'a> {
    /// `None` where there is nothing to correct with, or the matrix cannot be factored.
    pub fn new(backend: &Backend, statistics: &'a Statistics, settings: &Settings) -> Option<Self> {
        let damping = settings.correction_damping?;
        let mean = statistics.mean_diagonal();
        if statistics.missing == Missing::Nothing || !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let n = statistics.columns;
        let mut lower: Vec<f64> = statistics.gram.iter().map(|&g| f64::from(g)).collect();
        let ridge = f64::from(statistics.ridge(damping));
        (0..n).for_each(|i| lower[i * n + i] += ridge);
        dense::cholesky(backend, &mut lower, n).then_some(Self { statistics, lower })
    }

    /// Moves `weights`, the numbers of `rows`, to their target.
    pub fn apply(&self, backend: &Backend, weights: &mut [f32], rows: &[usize]) {
        let n = self.statistics.columns;
        for (weights, rows) in weights.chunks_mut(ROWS * n).zip(rows.chunks(ROWS)) {
            let missed = self.statistics.missed_by(backend, weights, rows.iter().copied());
            let mut moved: Vec<f64> = missed.into_iter().map(f64::from).collect();
            dense::solve(backend, &self.lower, n, &mut moved);
            weights.iter_mut().zip(moved).for_each(|(w, m)| *w += m as f32);
        }
    }
}

/// Σ ‖W xq + m − V xq‖² over the contexts of `statistics`, less what does not depend on V: the `values` of `rows`.
pub fn loss(
    backend: &Backend,
    statistics: &Statistics,
    original: &[f32],
    rows: &[usize],
    values: &[f32],
) -> f64 {
    let n = statistics.columns;
    let mut wanted = statistics.missed_by(backend, original, rows.iter().copied());
    dense::multiply(backend, original, &statistics.gram, n, 1.0, &mut wanted);
    let mut given = vec![0.0; values.len()];
    dense::multiply(backend, values, &statistics.gram, n, 0.0, &mut given);
    let terms = values.iter().zip(given.iter().zip(&wanted));
    terms.map(|(&v, (&g, &t))| f64::from(v) * (f64::from(g) - 2.0 * f64::from(t))).sum()
}
