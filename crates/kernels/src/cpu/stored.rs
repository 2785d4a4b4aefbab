//! A matrix in its stored format, decoded as it is multiplied.

use super::Operations;
use crate::backend::{Arithmetic, Matrix};
use crate::dense::{View, product};
use crate::shared::Shared;
use crate::{Backend, scratch};
use kvant_core::Tensor;

/// From this many rows of activations on, tiles of products pay.
const SOME: usize = 3;
/// From this many rows of activations on, a decoded panel and `gemm` pay.
const MANY: usize = 64;
/// Numbers that the decoded rows of a task with tiles may have.
const TILED_NUMBERS: usize = 1 << 15;
/// Rows that one task of a product with few activations takes.
const FEW_ROWS: usize = 16;
/// Numbers that a decoded panel may have.
const PANEL_NUMBERS: usize = 1 << 18;

/// `rows × columns` in the tensor's own bytes.
pub(crate) struct Stored {
    tensor: Tensor,
    backend: Backend,
    operations: &'static Operations,
}

impl Stored {
    pub fn new(backend: &Backend, tensor: &Tensor) -> Self {
        Self { tensor: tensor.clone(), backend: backend.clone(), operations: backend.operations() }
    }

    /// Rows of a panel: fixed by the shape, so that no result depends on threads. `gemm` packs the activations once a
    /// panel, so wide panels are better, but there should be a few for every thread.
    fn panel_rows(&self) -> usize {
        let fit = PANEL_NUMBERS / self.columns().max(1);
        (self.rows() / 4).clamp(64, 256).min(fit).max(16) / 16 * 16
    }

    fn decode(&self, start: usize, count: usize, out: &mut [f32]) {
        self.tensor.format().decode(self.tensor.rows(start, count), out);
    }

    fn few(&self, x: &[f32], y: &mut [f32]) {
        let (rows, columns) = (self.rows(), self.columns());
        let n = x.len() / columns;
        let y = Shared::new(y);
        self.backend.pool().run(rows.div_ceil(FEW_ROWS), &|task| {
            let start = task * FEW_ROWS;
            scratch::with(columns, |row| {
                for r in start..rows.min(start + FEW_ROWS) {
                    self.decode(r, 1, row);
                    for i in 0..n {
                        let dot = (self.operations.dot)(row, &x[i * columns..(i + 1) * columns]);
                        // SAFETY: each task has its own rows of the weights, hence its own results.
                        unsafe { y.part(i * rows + r, 1).fill(dot) };
                    }
                }
            });
        });
    }

    fn some(&self, x: &[f32], y: &mut [f32]) {
        let (rows, columns) = (self.rows(), self.columns());
        let panel = (TILED_NUMBERS / columns.max(1) / 4 * 4).clamp(4, 64);
        let y = Shared::new(y);
        self.backend.pool().run(rows.div_ceil(panel), &|task| {
            let start = task * panel;
            let count = panel.min(rows - start);
            scratch::with(count * columns, |weights| {
                self.decode(start, count, weights);
                (self.operations.tiles)(
                    View::new(weights, count, columns, columns),
                    x,
                    &mut |i, j, product| {
                        // SAFETY: each task has its own rows of the weights, hence its own results.
                        unsafe { y.part(j * rows + start + i, 1).fill(product) };
                    },
                );
            });
        });
    }

    fn many(&self, x: &[f32], y: &mut [f32]) {
        let (rows, columns, panel) = (self.rows(), self.columns(), self.panel_rows());
        let n = x.len() / columns;
        assert_eq!(y.len(), n * rows, "a result for every row");
        let y = Shared::new(y);
        self.backend.pool().run(rows.div_ceil(panel), &|task| {
            let start = task * panel;
            let count = panel.min(rows - start);
            scratch::with(count * columns, |weights| {
                self.decode(start, count, weights);
                // SAFETY: lhs is n × columns in `x`, rhs columns × count in `weights`, the result n × count inside
                // `y` at distance `rows` (its length is checked above), and no other task writes these columns.
                unsafe {
                    gemm::gemm(
                        n,
                        count,
                        columns,
                        y.pointer(start),
                        1,
                        rows as isize,
                        false,
                        x.as_ptr(),
                        1,
                        columns as isize,
                        weights.as_ptr(),
                        columns as isize,
                        1,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            });
        });
    }
}

impl Matrix for Stored {
    fn rows(&self) -> usize {
        self.tensor.shape().rows()
    }

    fn columns(&self) -> usize {
        self.tensor.shape().columns()
    }

    fn weight_bytes(&self) -> usize {
        self.tensor.bytes().len()
    }

    fn kernel(&self) -> &'static str {
        self.operations.name
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Float
    }

    fn multiply(&self, x: &[f32], y: &mut [f32]) {
        let columns = self.columns();
        assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
        assert_eq!(y.len(), x.len() / columns * self.rows(), "a result for every row");
        match x.len() / columns {
            n if n < SOME || self.backend.isa() == crate::Isa::Scalar => self.few(x, y),
            n if n < MANY => self.some(x, y),
            _ => self.many(x, y),
        }
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        let (rows, columns) = (self.rows(), self.columns());
        let n = x.len() / rows;
        assert!(x.len() == n * rows && y.len() == n * columns, "gradients are rows of {rows}");
        let panel = (PANEL_NUMBERS / columns.max(1)).clamp(1, rows.max(1));
        let y = Shared::new(y);
        scratch::with(panel * columns, |weights| {
            for start in (0..rows).step_by(panel) {
                let count = panel.min(rows - start);
                let decoded = Shared::new(&mut weights[..count * columns]);
                self.backend.pool().run(count.div_ceil(FEW_ROWS), &|task| {
                    let (first, count) = (task * FEW_ROWS, FEW_ROWS.min(count - task * FEW_ROWS));
                    // SAFETY: each task has its own rows of the panel.
                    self.decode(start + first, count, unsafe {
                        decoded.part(first * columns, count * columns)
                    });
                });
                let right = View::new(weights, count, columns, columns);
                self.backend.pool().run(n.div_ceil(MANY), &|task| {
                    let (first, tokens) = (task * MANY, MANY.min(n - task * MANY));
                    let left = View::new(&x[first * rows + start..], tokens, count, rows);
                    // SAFETY: each task has its own rows of the result.
                    let out = unsafe { y.part(first * columns, tokens * columns) };
                    product(out, columns, 1.0, 1.0, left, right);
                });
            }
        });
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.decode(index, 1, out);
    }
}
