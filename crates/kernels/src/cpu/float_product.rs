//! Products with panels of floats. A panel is 32 rows of a matrix, stored column by column.
//!
//! ```text
//! for each part of 256 columns, for each panel, for up to 6 or 12 rows of activations t at a time:
//!     for each column c of the part: sums[t] += x[t][c] · panel[c]
//!     y[t] += sums[t]
//! ```
//!
//! Here x[t][c] is the activation in row t and column c. panel[c] is column c of the panel: 32 weights. sums[t] and
//! y[t] are the 32 products of row t with the panel: sums[t] for one part, y[t] for all parts.
//!
//! The sums fill the registers of the instruction set. Each column is converted to `f32` one time for all rows of
//! activations of the innermost loop. A part of a panel stays in the first-level cache while all rows of activations
//! are multiplied with it. A [`PanelSource`] provides the panels.
//!
//! Invariant: the order of the additions of a sum depends only on the number of columns. It does not depend on the
//! other rows of the call.

use super::generic::float_tile::{FloatType, ROWS, ROWS_AT_ONCE};
use crate::shared::Shared;
use crate::view::View;
use crate::{Backend, Matrix, scratch};
use std::ops::Range;

/// Number of columns of a part of a panel. The last part may have fewer columns.
pub(crate) const PART_COLUMNS: usize = 256;
/// Maximum number of rows of activations that are read in place. More rows are first copied part by part, because rows
/// whose distance is a power of two would compete for the same lines of the first-level cache.
const IN_PLACE_ROWS: usize = 4;
/// Approximate number of bytes of the panels that one task multiplies.
const TASK_BYTES: usize = 1 << 16;

/// A matrix that provides panels of floats.
pub(crate) trait PanelSource: Matrix {
    /// Returns the type in which the floats are stored.
    fn float_type(&self) -> FloatType;
    /// Calls `use_columns` with the bytes of the columns `columns` of panel `panel`, 32 floats per column. Both ends of
    /// `columns` are multiples of the block size of the stored format.
    fn with_columns(&self, panel: usize, columns: Range<usize>, use_columns: &mut dyn FnMut(&[u8]));
}

/// Computes `y` = `x` · Wᵀ, where W is the matrix `source` with shape rows × columns. Shapes: `x` is n × columns, `y`
/// is n × rows.
///
/// # Panics
/// If the lengths of `x` and `y` do not match these shapes.
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
            // SAFETY: each task writes only its own part of the columns, and the parts do not overlap.
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

/// Computes [`product`] for `n` rows of activations. `x(rows, part)` returns the activations in the rows `rows` and
/// the columns `part`.
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
        // This buffer first collects the results. In `y`, results whose distance is a power of two would compete for
        // the same cache lines.
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
                    // SAFETY: each task multiplies its own panels, so no other task writes these results.
                    let out = unsafe { y.part(t * rows + panel * ROWS, count) };
                    out.copy_from_slice(&results[..count]);
                }
            }
        });
    });
}
