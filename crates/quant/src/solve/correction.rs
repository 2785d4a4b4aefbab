//! The corrected target of a linear layer (map). It compensates for the errors of earlier maps.
//!
//! W is the map's original weight, xf its input in the float network, and xq its input in the partly quantized network.
//! The float network computes `W xf`; the quantized network would compute `W xq`. The residual streams rf (float) and
//! rq (quantized) may already differ, too. Let m be the total difference of the results, float minus quantized. The
//! target W* minimizes Σ ‖W xq + m − W* xq‖² + λ‖W* − W‖², where Σ runs over the calibration tokens and λ is the
//! damping:
//!
//! ```text
//! W* = W + M (G + λI)⁻¹      M = Σ m xqᵀ, G = Σ xq xqᵀ (the Gram matrix)
//! ```
//!
//! m contains `rf − rq` only for maps that write to the residual stream. Source: the first-order condition of this
//! minimum. Qronos (Zhang et al., arXiv 2505.11695) makes the same correction for the difference of the inputs. QEP
//! (Arai and Ichikawa, arXiv 2504.09629) calls it error propagation. λ is a share of the mean of G's diagonal. A
//! smaller λ follows the calibration text more closely.

use super::solver::Settings;
use crate::gather::{Missing, Statistics};
use kvant_kernels::{Backend, dense};

/// Number of rows that are corrected together. It limits the memory of their `f64` copies.
pub const ROWS: usize = 1024;

/// The factored linear system of a map. Any rows of the map can be corrected with it.
pub struct Correction<'a> {
    statistics: &'a Statistics,
    /// Cholesky factor of G + λI, a lower triangular matrix, columns × columns.
    lower: Vec<f64>,
}

impl<'a> Correction<'a> {
    /// Factors G + λI. Returns `None` if the statistics contain no m, if the settings have no correction damping, or if
    /// the matrix cannot be factored.
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

    /// Replaces `weights` by their corrected target. `weights` has the values of the map's rows with the indices
    /// `rows`.
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

/// Returns Σ ‖W xq + m − V xq‖² over the tokens of `statistics`, without the terms that do not depend on V. V is the
/// quantized weight. `original` has the rows of W with the indices `rows`; `values` has the same rows of V.
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
