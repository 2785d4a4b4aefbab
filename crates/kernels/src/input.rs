//! The input activations of one or several matrices. They are rounded one time for all these matrices.

use crate::cpu::rounded::Rounded;
use crate::{Backend, Precision};
use std::cell::OnceCell;

/// Rows of activations. The first matrix that needs rounded activations rounds all rows. Later matrices with the same
/// precision reuse the rounded rows.
pub struct Input<'a> {
    x: &'a [f32],
    columns: usize,
    /// The rounded rows, one entry per precision. An entry is empty until the first matrix needs it.
    rounded: [OnceCell<Rounded>; Precision::ALL.len()],
}

impl<'a> Input<'a> {
    /// Creates an input with rows of `columns` floats. Panics if the length of `x` is not a multiple of `columns`.
    pub fn new(x: &'a [f32], columns: usize) -> Self {
        assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
        Self { x, columns, rounded: Default::default() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.x.len() / self.columns
    }

    /// Returns the activations, row-major.
    pub fn numbers(&self) -> &'a [f32] {
        self.x
    }

    /// Returns the activations rounded to `precision`. The first call rounds them; later calls reuse the result.
    pub(crate) fn rounded(&self, backend: &Backend, precision: Precision) -> &Rounded {
        self.rounded[precision as usize]
            .get_or_init(|| Rounded::new(backend, self.x, self.columns, precision))
    }
}
