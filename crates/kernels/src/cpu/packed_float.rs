//! A matrix of floats (`f32`, `f16`, `bf16`) that is packed into panels when the model is loaded. A panel is 32 rows of
//! the matrix, stored column by column. So one vector multiplies several rows of a panel.

use super::dequantized::Dequantized;
use super::float_product::{self, PART_COLUMNS, PanelSource};
use super::generic::float_tile::{FloatType, ROWS, flush_subnormals};
use crate::huge_pages::HugePages;
use crate::shared::Shared;
use crate::{Arithmetic, Backend, Input, Matrix};
use kvant_core::Tensor;
use std::any::Any;
use std::ops::Range;

/// `rows × columns` floats in panels of 32 rows.
pub(crate) struct PackedFloat {
    /// The tensor from which the panels were packed. An embedding reads single rows from this tensor.
    tensor: Tensor,
    backend: Backend,
    float_type: FloatType,
    /// The panels in the order of their rows. Rows past the end of the matrix are zero.
    panels: HugePages,
}

impl PackedFloat {
    /// Packs a tensor. Returns `None` if the format of the tensor is not `f32`, `f16` or `bf16`.
    pub fn new(backend: &Backend, tensor: &Tensor) -> Option<Self> {
        let float_type = match tensor.format().name() {
            "f32" => FloatType::F32,
            "f16" => FloatType::F16,
            "bf16" => FloatType::Bf16,
            _ => return None,
        };
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().columns());
        let bytes = float_type.bytes();
        let (panels, panel_bytes) = (rows.div_ceil(ROWS), columns * ROWS * bytes);
        let mut panel_memory = HugePages::new(panels * panel_bytes);
        let target = Shared::new(panel_memory.bytes_mut());
        backend.pool().run(panels, &|panel| {
            // SAFETY: each task writes only its own panel.
            let target = unsafe { target.part(panel * panel_bytes, panel_bytes) };
            let start = panel * ROWS;
            let source = tensor.rows(start, ROWS.min(rows - start));
            // The panel is written part by part, so that the written bytes stay in the cache.
            for first in (0..columns).step_by(PART_COLUMNS) {
                let part = first..columns.min(first + PART_COLUMNS);
                for (row, source) in source.chunks_exact(columns * bytes).enumerate() {
                    let source = source[part.start * bytes..part.end * bytes].chunks_exact(bytes);
                    let target = target[part.start * ROWS * bytes..].chunks_exact_mut(ROWS * bytes);
                    for (source, target) in source.zip(target) {
                        target[row * bytes..][..bytes].copy_from_slice(source);
                    }
                }
                flush_subnormals(float_type, &mut target[part.start * ROWS * bytes..part.end * ROWS * bytes]);
            }
        });
        Some(Self { tensor: tensor.clone(), backend: backend.clone(), float_type, panels: panel_memory })
    }
}

impl PanelSource for PackedFloat {
    fn float_type(&self) -> FloatType {
        self.float_type
    }

    fn with_columns(&self, panel: usize, columns: Range<usize>, use_columns: &mut dyn FnMut(&[u8])) {
        let column_bytes = ROWS * self.float_type.bytes();
        let start = (panel * self.columns() + columns.start) * column_bytes;
        use_columns(&self.panels.bytes()[start..][..columns.len() * column_bytes]);
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
