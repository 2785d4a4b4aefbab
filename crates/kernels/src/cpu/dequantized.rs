//! A matrix that keeps its stored format. Each part of the matrix is decoded when it is multiplied, so only the tensor
//! is stored.

use super::float_product::{self, PanelSource};
use super::generic::float_tile::{FloatType, ROWS, flush_subnormal};
use crate::dense::{View, product};
use crate::shared::Shared;
use crate::{Arithmetic, Backend, Input, Matrix, scratch};
use kvant_core::Tensor;
use std::any::Any;
use std::ops::Range;

/// Number of rows that a task of [`Matrix::add_transposed`] decodes or multiplies.
const TASK_ROWS: usize = 64;
/// Maximum number of floats that [`Matrix::add_transposed`] decodes at the same time.
const PANEL_FLOATS: usize = 1 << 18;

/// `rows × columns` weights in the stored format of the tensor.
pub(crate) struct Dequantized {
    tensor: Tensor,
    backend: Backend,
}

impl Dequantized {
    pub fn new(backend: &Backend, tensor: &Tensor) -> Self {
        Self { tensor: tensor.clone(), backend: backend.clone() }
    }

    /// Decodes `count` rows from row `start` on. Subnormal weights become zero.
    fn decode(&self, start: usize, count: usize, out: &mut [f32]) {
        self.tensor.format().decode(self.tensor.rows(start, count), out);
        out.iter_mut().for_each(|weight| *weight = flush_subnormal(*weight));
    }
}

impl PanelSource for Dequantized {
    fn float_type(&self) -> FloatType {
        FloatType::F32
    }

    /// Decodes each row of the panel, and copies its floats to their places in the columns of the panel.
    fn with_columns(&self, panel: usize, columns: Range<usize>, use_columns: &mut dyn FnMut(&[u8])) {
        let (start, block) = (panel * ROWS, self.tensor.format().block());
        let row_bytes = self.tensor.row_bytes();
        let bytes = columns.start / block.elements * block.bytes..columns.end / block.elements * block.bytes;
        scratch::with(columns.len() * (ROWS + 1), |buffer| {
            let (transposed, row) = buffer.split_at_mut(columns.len() * ROWS);
            let rows = self.tensor.rows(start, ROWS.min(self.rows() - start));
            for (i, from) in rows.chunks_exact(row_bytes).enumerate() {
                self.tensor.format().decode(&from[bytes.clone()], row);
                let transposed = transposed.iter_mut().skip(i).step_by(ROWS);
                transposed.zip(&*row).for_each(|(transposed, x)| *transposed = flush_subnormal(*x));
            }
            use_columns(bytemuck::cast_slice(transposed));
        });
    }
}

impl Matrix for Dequantized {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn kernel(&self) -> String {
        self.backend.isa().name().to_owned()
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Float
    }

    fn apply(&self, x: &Input, y: &mut [f32]) {
        float_product::product(&self.backend, self, x.numbers(), y);
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        let (rows, columns) = (self.rows(), self.columns());
        let n = x.len() / rows;
        assert!(x.len() == n * rows && y.len() == n * columns, "gradients are rows of {rows}");
        let panel = (PANEL_FLOATS / columns.max(1)).clamp(1, rows.max(1));
        let y = Shared::new(y);
        scratch::with(panel * columns, |weights| {
            for start in (0..rows).step_by(panel) {
                let count = panel.min(rows - start);
                let decoded = Shared::new(&mut weights[..count * columns]);
                self.backend.pool().run(count.div_ceil(TASK_ROWS), &|task| {
                    let (first, count) = (task * TASK_ROWS, TASK_ROWS.min(count - task * TASK_ROWS));
                    // SAFETY: each task writes only its own rows of the decoded weights.
                    self.decode(start + first, count, unsafe {
                        decoded.part(first * columns, count * columns)
                    });
                });
                let right = View::new(weights, count, columns, columns);
                self.backend.pool().run(n.div_ceil(TASK_ROWS), &|task| {
                    let (first, tokens) = (task * TASK_ROWS, TASK_ROWS.min(n - task * TASK_ROWS));
                    let left = View::new(&x[first * rows + start..], tokens, count, rows);
                    // SAFETY: each task writes only its own rows of the result.
                    let out = unsafe { y.part(first * columns, tokens * columns) };
                    product(out, columns, 1.0, 1.0, left, right);
                });
            }
        });
    }
}
