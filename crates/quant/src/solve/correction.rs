//! The corrected target of a map: it compensates for the errors of earlier maps.
//!
//! The float network computes `W xf`. The quantized network would compute `W xq`, and its residual stream may already
//! differ by `rf − rq`. Let m be the total difference of the results, float minus quantized. The target W* minimizes
//! Σ ‖W xq + m − W* xq‖² + λ‖W* − W‖²:
//!
//! ```text
//! W* = W + M (G + λI)⁻¹      M = Σ m xqᵀ, G = Σ xq xqᵀ
//! ```
//!
//! m contains `rf − rq` only for maps that write to the residual stream. Source: the first-order condition. Qronos
//! (Zhang et al., arXiv 2505.11695) does the same for the input; QEP (Arai and Ichikawa, arXiv 2504.09629) calls it
//! error propagation. λ is a share of the mean of G's diagonal: a smaller λ trusts the calibration text more.

use super::solver::Settings;
use crate::gather::{Missing, Statistics};
use kvant_kernels::{Backend, dense};

/// Rows that are corrected at once. It limits the memory of their `f64` copies.
pub const ROWS: usize = 1024;

/// The factored linear system of a map. It corrects any of its rows.
pub struct Correction<'a> {
    statistics: &'a Statistics,
    /// Cholesky factor of G + λI.
    lower: Vec<f64>,
}

impl<'a> Correction<'a> {
    /// Factors G + λI. Returns `None` if there is nothing to correct, or if the matrix cannot be factored.
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

    /// Replaces `weights`, the values of the rows with indices `rows`, by their target.
    pub fn apply(&self, backend: &Backend, weights: &mut [f32], rows: &[usize]) {
        let n = self.statistics.columns;
        for (weights, rows) in weights.chunks_mut(ROWS * n).zip(rows.chunks(ROWS)) {
            let missed = self.statistics.missed_by(backend, weights, rows.iter().copied());
            let mut change: Vec<f64> = missed.into_iter().map(f64::from).collect();
            dense::solve(backend, &self.lower, n, &mut change);
            weights.iter_mut().zip(change).for_each(|(w, m)| *w += m as f32);
        }
    }
}

/// Returns Σ ‖W xq + m − V xq‖² over the contexts of `statistics`, without the terms that do not depend on V.
/// `original` holds the rows of W with indices `rows`, `values` the same rows of V.
pub fn loss(
    backend: &Backend,
    statistics: &Statistics,
    original: &[f32],
    rows: &[usize],
    values: &[f32],
) -> f64 {
    let n = statistics.columns;
    let mut target_by_gram = statistics.missed_by(backend, original, rows.iter().copied());
    dense::multiply(backend, original, &statistics.gram, n, 1.0, &mut target_by_gram);
    let mut values_by_gram = vec![0.0; values.len()];
    dense::multiply(backend, values, &statistics.gram, n, 0.0, &mut values_by_gram);
    let terms = values.iter().zip(values_by_gram.iter().zip(&target_by_gram));
    terms.map(|(&v, (&g, &t))| f64::from(v) * (f64::from(g) - 2.0 * f64::from(t))).sum()
}
