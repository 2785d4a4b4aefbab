//! A matrix in its stored format, decoded part by part as it is multiplied: nothing is kept beside the tensor.

use super::float_product::{self, Source};
use super::generic::float_tile::{ROWS, Width, flushed};
use crate::dense::{View, product};
use crate::shared::Shared;
use crate::{Arithmetic, Backend, Input, Matrix, scratch};
use kvant_core::Tensor;
use std::any::Any;
use std::ops::Range;

/// Rows that a task of [`Matrix::add_transposed`] decodes or multiplies.
const SOME_ROWS: usize = 64;
/// Numbers that a decoded panel may have.
const PANEL_NUMBERS: usize = 1 << 18;

/// `rows × columns` in the tensor's own bytes.
pub(crate) struct Dequantized {
    tensor: Tensor,
    backend: Backend,
}

impl Dequantized {
    pub fn new(backend: &Backend, tensor: &Tensor) -> Self {
        Self { tensor: tensor.clone(), backend: backend.clone() }
    }

    fn decode(&self, start: usize, count: usize, out: &mut [f32]) {
        self.tensor.format().decode(self.tensor.rows(start, count), out);
        out.iter_mut().for_each(|weight| *weight = flushed(*weight));
    }
}

impl Source for Dequantized {
    fn width(&self) -> Width {
        Width::F32
    }

    /// Decoded row by row, then turned.
    fn part(&self, panel: usize, columns: Range<usize>, take: &mut dyn FnMut(&[u8])) {
        let (start, block) = (panel * ROWS, self.tensor.format().block());
        let row_bytes = self.tensor.row_bytes();
        let bytes = columns.start / block.elements * block.bytes..columns.end / block.elements * block.bytes;
        scratch::with(columns.len() * (ROWS + 1), |all| {
            let (turned, row) = all.split_at_mut(columns.len() * ROWS);
            let rows = self.tensor.rows(start, ROWS.min(self.rows() - start));
            for (i, from) in rows.chunks_exact(row_bytes).enumerate() {
                self.tensor.format().decode(&from[bytes.clone()], row);
                let turned = turned.iter_mut().skip(i).step_by(ROWS);
                turned.zip(&*row).for_each(|(turned, x)| *turned = flushed(*x));
            }
            take(bytemuck::cast_slice(turned));
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
        let panel = (PANEL_NUMBERS / columns.max(1)).clamp(1, rows.max(1));
        let y = Shared::new(y);
        scratch::with(panel * columns, |weights| {
            for start in (0..rows).step_by(panel) {
                let count = panel.min(rows - start);
                let decoded = Shared::new(&mut weights[..count * columns]);
                self.backend.pool().run(count.div_ceil(SOME_ROWS), &|task| {
                    let (first, count) = (task * SOME_ROWS, SOME_ROWS.min(count - task * SOME_ROWS));
                    // SAFETY: each task has its own rows of the panel.
                    self.decode(start + first, count, unsafe {
                        decoded.part(first * columns, count * columns)
                    });
                });
                let right = View::new(weights, count, columns, columns);
                self.backend.pool().run(n.div_ceil(SOME_ROWS), &|task| {
                    let (first, tokens) = (task * SOME_ROWS, SOME_ROWS.min(n - task * SOME_ROWS));
                    let left = View::new(&x[first * rows + start..], tokens, count, rows);
                    // SAFETY: each task has its own rows of the result.
                    let out = unsafe { y.part(first * columns, tokens * columns) };
                    product(out, columns, 1.0, 1.0, left, right);
                });
            }
        });
    }
}
