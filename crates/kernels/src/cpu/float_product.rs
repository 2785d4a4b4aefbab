//! Products with panels of floats.
//!
//! ```text
//! for each part of 256 columns, for each panel, for up to 6 or 12 rows of activations t at a time:
//!     for each column c of the part: sums[t] += x[t][c] · panel[c]
//!     y[t] += sums[t]
//! ```
//!
//! Sums fill an instruction set's registers; one widened column serves all; a part of a panel stays in the nearest cache
//! while activations pass. Invariant: a product is summed in one order, by its length alone,
//! whatever is multiplied beside it. Left out: where a panel's numbers come from ([`Source`]).

use super::generic::float_tile::{HELD, ROWS, Width};
use crate::shared::Shared;
use crate::view::View;
use crate::{Backend, Matrix, scratch};
use std::ops::Range;

/// Columns of a part.
pub(crate) const PART: usize = 256;
/// Rows of activations that are multiplied where they lie. More are laid together part by part: rows a power of two apart
/// would fall on the same lines of the nearest cache.
const FEW: usize = 4;
/// Bytes of panels of a task, about.
const TASK_BYTES: usize = 1 << 16;

/// Where panels come from.
pub(crate) trait Source: Matrix {
    /// How the numbers are stored.
    fn width(&self) -> Width;
    /// Hands over some columns of a panel, 32 numbers each.
    fn part(&self, panel: usize, columns: Range<usize>, take: &mut dyn FnMut(&[u8]));
}

/// `y` (n × rows) = `x` (n × columns) · all panels.
pub(crate) fn product(backend: &Backend, source: &dyn Source, x: &[f32], y: &mut [f32]) {
    let (rows, columns) = (source.rows(), source.columns());
    assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
    let n = x.len() / columns;
    assert_eq!(y.len(), n * rows, "a result for every row");
    if n == 0 {
        return;
    }
    if n <= FEW || columns <= PART {
        return by_panels(backend, source, n, y, &|rows, part| {
            View::new(&x[rows.start * columns + part.start..], rows.len(), part.len(), columns)
        });
    }
    scratch::with(x.len(), |parts| {
        let all = Shared::new(parts);
        backend.pool().run(columns.div_ceil(PART), &|task| {
            let part = task * PART..columns.min((task + 1) * PART);
            // SAFETY: each task has its own part.
            let into = unsafe { all.part(n * part.start, n * part.len()) };
            for (into, row) in into.chunks_exact_mut(part.len()).zip(x.chunks_exact(columns)) {
                into.copy_from_slice(&row[part.clone()]);
            }
        });
        let parts = &*parts;
        by_panels(backend, source, n, y, &|rows, part| {
            let start = n * part.start + rows.start * part.len();
            View::new(&parts[start..], rows.len(), part.len(), part.len())
        });
    });
}

/// [`product`] with `n` rows of activations, of which `x` gives some rows of a part.
fn by_panels<'a>(
    backend: &Backend,
    source: &dyn Source,
    n: usize,
    y: &mut [f32],
    x: &(dyn Fn(Range<usize>, Range<usize>) -> View<'a, f32> + Sync),
) {
    let (rows, columns, width) = (source.rows(), source.columns(), source.width());
    let panels = rows.div_ceil(ROWS);
    let each = (TASK_BYTES / (columns * ROWS * width.bytes())).clamp(1, panels.max(1));
    let y = Shared::new(y);
    backend.pool().run(panels.div_ceil(each), &|task| {
        let of_task = task * each..panels.min((task + 1) * each);
        // Results gather here, for rows of them a power of two apart would fall on the same lines, too.
        scratch::with(of_task.len() * n * ROWS, |results| {
            let results = results.as_chunks_mut::<ROWS>().0;
            let mut sums = [[0.0f32; ROWS]; HELD];
            for start in (0..columns).step_by(PART) {
                let part = start..columns.min(start + PART);
                for (panel, results) in of_task.clone().zip(results.chunks_exact_mut(n)) {
                    source.part(panel, part.clone(), &mut |numbers| {
                        for (index, results) in results.chunks_mut(HELD).enumerate() {
                            let sums = &mut sums[..results.len()];
                            let first = index * HELD;
                            let x = x(first..first + sums.len(), part.clone());
                            backend.cpu().float_tile(width, numbers, x, sums);
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
            for (panel, results) in of_task.zip(results.chunks_exact(n)) {
                let count = ROWS.min(rows - panel * ROWS);
                for (t, results) in results.iter().enumerate() {
                    // SAFETY: each task has its own rows of the weights, hence its own results.
                    let out = unsafe { y.part(t * rows + panel * ROWS, count) };
                    out.copy_from_slice(&results[..count]);
                }
            }
        });
    });
}
