//! The order in which columns are rounded, and the feedback of an error in one column to the later columns.
//!
//! The format fixes the storage order of columns, but the rounding order is free. Blocks are sorted by the mean of
//! their part of the Gram matrix's diagonal, the largest first. Groups inside a block are sorted in the same way, and
//! also the columns inside a group. So the most important columns are rounded first, and many later columns can
//! compensate for the errors of these columns.

use super::factor::UnitUpper;
use super::solver::Settings;
use crate::gather::Statistics;
use kvant_core::Block;
use kvant_kernels::Backend;

/// The columns in rounding order, and the factors A and w of the damped Gram matrix in that order.
///
/// (A + I) diag(w) (A + I)ᵀ = Gram matrix + ridge on its diagonal.
pub struct ActOrder {
    /// `columns[p]` is the column that is rounded at position `p`. The columns of a block have adjacent positions, and
    /// also the columns of a group.
    pub columns: Vec<usize>,
    /// A, which is strictly upper triangular, positions × positions. An error e at position p changes the target at
    /// position q by e · A[p][q].
    pub feedback: Vec<f32>,
    /// The damping with which the factorization succeeded.
    pub damping: f32,
    /// w: the weight of the squared rounding error at each position. This error is the difference of the rounded value
    /// from the value that already contains the feedback of earlier errors.
    pub weights: Vec<f32>,
}

/// Returns the indices below `count` in descending order of their keys. Indices with equal keys keep their order.
fn descending(count: usize, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    all.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    all
}

/// Returns the columns in rounding order.
fn rounding_order(statistics: &Statistics, block: Block) -> Vec<usize> {
    let n = statistics.columns;
    let diagonal = |i: usize| f64::from(statistics.gram[i * n + i]);
    let mean = |start: usize, count: usize| (start..start + count).map(diagonal).sum::<f64>() / count as f64;
    let mut columns = Vec::with_capacity(n);
    for b in descending(n / block.elements, |b| mean(b * block.elements, block.elements)) {
        let start = b * block.elements;
        for g in descending(block.elements / block.group, |g| mean(start + g * block.group, block.group)) {
            let start = start + g * block.group;
            columns.extend(descending(block.group, |c| diagonal(start + c)).into_iter().map(|c| start + c));
        }
    }
    columns
}

impl ActOrder {
    /// Computes the rounding order for the blocks of a format, and factors the Gram matrix. If the factorization fails,
    /// the damping grows tenfold and the factorization is repeated, at most eight times in total. Returns `None` if it
    /// never succeeds.
    pub fn new(
        backend: &Backend,
        statistics: &Statistics,
        block: Block,
        settings: &Settings,
    ) -> Option<Self> {
        let n = statistics.columns;
        let mean = statistics.mean_diagonal();
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let columns = rounding_order(statistics, block);
        let mut damping = settings.damping.max(1e-6);
        for _ in 0..8 {
            let ridge = f64::from(statistics.ridge(damping));
            let at = |i: usize, j: usize| f64::from(statistics.gram[columns[i] * n + columns[j]]);
            if let Some(UnitUpper { feedback, weights }) = UnitUpper::new(backend, n, ridge, at) {
                return Some(Self { columns, feedback, damping, weights });
            }
            damping *= 10.0;
        }
        None
    }
}
