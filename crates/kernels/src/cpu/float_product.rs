//! Products with panels of floats.
//!
//! ```text
//! for each part of 256 columns, for each panel, for up to 6 or 12 rows of activations t at a time:
//!     for each column c of the part: sums[t] += x[t][c] · panel[c]
//!     y[t] += sums[t]
//! ```
//!
//! The sums fill the registers of the instruction set. All rows of activations share one column that was converted to
//! `f32`. A part of a panel stays in the first-level cache while the rows of activations use it.
//! Invariant: the order of a sum depends only on its length, not on what else is multiplied in the same call.
//! A [`PanelSource`] provides the panels.

use super::generic::float_tile::{FloatType, ROWS, ROWS_AT_ONCE};
use crate::shared::Shared;
use crate::view::View;
use crate::{Backend, Matrix, scratch};
use std::ops::Range;

/// Columns of a part of a panel.
pub(crate) const PART_COLUMNS: usize = 256;
/// Up to this many rows of activations are read in place. More rows are first copied part by part: rows whose distance
/// is a power of two would compete for the same lines of the first-level cache.
const IN_PLACE_ROWS: usize = 4;
/// Approximate bytes of the panels of one task.
const TASK_BYTES: usize = 1 << 16;

/// A matrix that provides panels of floats.
pub(crate) trait PanelSource: Matrix {
    /// The type in which the floats are stored.
    fn float_type(&self) -> FloatType;
    /// Calls `use_columns` with the bytes of some columns of a panel, 32 floats per column.
    fn with_columns(&self, panel: usize, columns: Range<usize>, use_columns: &mut dyn FnMut(&[u8]));
}

/// Computes `y` (n × rows) = `x` (n × columns) · all panels.
pub(crate) fn product(backend: &Backend, source: &dyn PanelSource, x: &[f32], y: &mut [f32]) {
    let (rows, columns) = (source.rows(), source.columns());
    assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
    let n = x.len() / columns;
    assert_eq!(y.len(), n * rows, "a result for every row");
    if n == 0 {
        return;
    }
    if n <= IN_PLACE_ROWS || columns <= PART_COLUMNS {
        return by_panels(backend, source, n, y, &|rows, part| {
            View::new(&x[rows.start * columns + part.start..], rows.len(), part.len(), columns)
        });
    }
    scratch::with(x.len(), |parts| {
        let all = Shared::new(parts);
        backend.pool().run(columns.div_ceil(PART_COLUMNS), &|task| {
            let part = task * PART_COLUMNS..columns.min((task + 1) * PART_COLUMNS);
            // SAFETY: each task has its own part.
            let target = unsafe { all.part(n * part.start, n * part.len()) };
            for (target, row) in target.chunks_exact_mut(part.len()).zip(x.chunks_exact(columns)) {
                target.copy_from_slice(&row[part.clone()]);
            }
        });
        let parts = &*parts;
        by_panels(backend, source, n, y, &|rows, part| {
            let start = n * part.start + rows.start * part.len();
            View::new(&parts[start..], rows.len(), part.len(), part.len())
        });
    });
}

/// Computes [`product`] for `n` rows of activations; `x(rows, part)` returns the columns `part` of the rows `rows`.
fn by_panels<'a>(
    backend: &Backend,
    source: &dyn PanelSource,
    n: usize,
    y: &mut [f32],
    x: &(dyn Fn(Range<usize>, Range<usize>) -> View<'a, f32> + Sync),
) {
    let (rows, columns, float_type) = (source.rows(), source.columns(), source.float_type());
    let panels = rows.div_ceil(ROWS);
    let panels_per_task = (TASK_BYTES / (columns * ROWS * float_type.bytes())).clamp(1, panels.max(1));
    let y = Shared::new(y);
    backend.pool().run(panels.div_ceil(panels_per_task), &|task| {
        let task_panels = task * panels_per_task..panels.min((task + 1) * panels_per_task);
        // The results are collected here first: in `y`, results whose distance is a power of two would compete for the
        // same cache lines.
        scratch::with(task_panels.len() * n * ROWS, |results| {
            let results = results.as_chunks_mut::<ROWS>().0;
            let mut sums = [[0.0f32; ROWS]; ROWS_AT_ONCE];
            for start in (0..columns).step_by(PART_COLUMNS) {
                let part = start..columns.min(start + PART_COLUMNS);
                for (panel, results) in task_panels.clone().zip(results.chunks_exact_mut(n)) {
                    source.with_columns(panel, part.clone(), &mut |floats| {
                        for (index, results) in results.chunks_mut(ROWS_AT_ONCE).enumerate() {
                            let sums = &mut sums[..results.len()];
                            let first = index * ROWS_AT_ONCE;
                            let x = x(first..first + sums.len(), part.clone());
                            backend.cpu().float_tile(float_type, floats, x, sums);
                            if start == 0 {
                                results.copy_from_slice(sums);
                            } else {
                                let pairs = results.as_flattened_mut().iter_mut().zip(sums.as_flattened());
                                pairs.for_each(|(result, sum)| *result += sum);
                            }
                        }
                    });
                }
            }
            for (panel, results) in task_panels.zip(results.chunks_exact(n)) {
                let count = ROWS.min(rows - panel * ROWS);
                for (t, results) in results.iter().enumerate() {
                    // SAFETY: each task has its own rows of the weights, so it has its own results.
                    let out = unsafe { y.part(t * rows + panel * ROWS, count) };
                    out.copy_from_slice(&results[..count]);
                }
            }
        });
    });
}
