//! In what order columns are rounded, and what an error on one means for the later ones.
//!
//! Storage order is the format's; the order of rounding is free. Blocks go by falling mean of the Gram matrix's
//! diagonal, in them groups, in them columns: what counts most is rounded first, while all others can still make up
//! for it.

use super::factor::UnitUpper;
use super::solver::Settings;
use crate::gather::Statistics;
use kvant_core::Block;
use kvant_kernels::Backend;

/// Columns in order of rounding, and the damped Gram matrix H = (A + I) diag(w) (A + I)ᵀ in that order.
pub struct ActOrder {
    /// `columns[p]` is the column rounded at place `p`. Blocks and groups stay together.
    pub columns: Vec<usize>,
    /// The strictly upper part of A, places × places: an error e at place p moves place q by e · A[p][q].
    pub feedback: Vec<f32>,
    /// The damping that it took.
    pub damping: f32,
    /// w: how much a squared error counts at each place, once all earlier ones have been made up for.
    pub weights: Vec<f32>,
}

/// Sorted by falling key; of equal ones the first comes first.
fn falling(count: usize, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    all.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    all
}

fn places(statistics: &Statistics, block: Block) -> Vec<usize> {
    let n = statistics.columns;
    let diagonal = |i: usize| f64::from(statistics.gram[i * n + i]);
    let mean = |start: usize, count: usize| (start..start + count).map(diagonal).sum::<f64>() / count as f64;
    let mut columns = Vec::with_capacity(n);
    for b in falling(n / block.elements, |b| mean(b * block.elements, block.elements)) {
        let start = b * block.elements;
        for g in falling(block.elements / block.group, |g| mean(start + g * block.group, block.group)) {
            let start = start + g * block.group;
            columns.extend(falling(block.group, |c| diagonal(start + c)).into_iter().map(|c| start + c));
        }
    }
    columns
}

impl ActOrder {
    /// The order for a format's blocks. The damping grows tenfold until the matrix can be factored; where that never
    /// happens, `None`.
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
        let columns = places(statistics, block);
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
