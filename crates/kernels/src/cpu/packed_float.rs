//! A matrix of numbers (`f32`, `f16`, `bf16`), repacked at load into panels that one vector multiplies.

use super::dequantized::Dequantized;
use super::float_product::{self, PART, Source};
use super::generic::float_tile::{ROWS, Width, flush};
use crate::huge_pages::HugePages;
use crate::shared::Shared;
use crate::{Arithmetic, Backend, Input, Matrix};
use kvant_core::Tensor;
use std::any::Any;
use std::ops::Range;

/// `rows × columns`, 32 rows side by side.
pub(crate) struct PackedFloat {
    /// The source: rows are read from it one by one, for an embedding.
    tensor: Tensor,
    backend: Backend,
    width: Width,
    panels: HugePages,
}

impl PackedFloat {
    /// `None` for a format that is not one of numbers.
    pub fn new(backend: &Backend, tensor: &Tensor) -> Option<Self> {
        let width = match tensor.format().name() {
            "f32" => Width::F32,
            "f16" => Width::F16,
            "bf16" => Width::Bf16,
            _ => return None,
        };
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().columns());
        let bytes = width.bytes();
        let (panels, panel_bytes) = (rows.div_ceil(ROWS), columns * ROWS * bytes);
        let mut region = HugePages::new(panels * panel_bytes);
        let into = Shared::new(region.bytes_mut());
        backend.pool().run(panels, &|panel| {
            // SAFETY: each task has its own panel.
            let into = unsafe { into.part(panel * panel_bytes, panel_bytes) };
            let start = panel * ROWS;
            let from = tensor.rows(start, ROWS.min(rows - start));
            // Part by part, so that what is written stays near.
            for first in (0..columns).step_by(PART) {
                let part = first..columns.min(first + PART);
                for (row, from) in from.chunks_exact(columns * bytes).enumerate() {
                    let from = from[part.start * bytes..part.end * bytes].chunks_exact(bytes);
                    let into = into[part.start * ROWS * bytes..].chunks_exact_mut(ROWS * bytes);
                    for (from, into) in from.zip(into) {
                        into[row * bytes..][..bytes].copy_from_slice(from);
                    }
                }
                flush(width, &mut into[part.start * ROWS * bytes..part.end * ROWS * bytes]);
            }
        });
        Some(Self { tensor: tensor.clone(), backend: backend.clone(), width, panels: region })
    }
}

impl Source for PackedFloat {
    fn width(&self) -> Width {
        self.width
    }

    fn part(&self, panel: usize, columns: Range<usize>, take: &mut dyn FnMut(&[u8])) {
        let column_bytes = ROWS * self.width.bytes();
        let start = (panel * self.columns() + columns.start) * column_bytes;
        take(&self.panels.bytes()[start..][..columns.len() * column_bytes]);
    }
}

impl Matrix for PackedFloat {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn kernel(&self) -> String {
        format!("{} panels", self.backend.isa().name())
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Float
    }

    fn apply(&self, x: &Input, y: &mut [f32]) {
        float_product::product(&self.backend, self, x.numbers(), y);
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        Dequantized::new(&self.backend, &self.tensor).add_transposed(x, y);
    }
}
