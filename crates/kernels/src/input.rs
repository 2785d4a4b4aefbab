//! Activations that one or several matrices read, rounded once for all of them.

use crate::cpu::rounded::Rounded;
use crate::{Backend, Precision};
use std::cell::OnceCell;

/// Rows of activations. A matrix of integer codes rounds them when it first multiplies; those that read the same
/// input after it find them rounded.
pub struct Input<'a> {
    x: &'a [f32],
    columns: usize,
    rounded: [OnceCell<Rounded>; Precision::ALL.len()],
}

impl<'a> Input<'a> {
    /// Rows of `columns` numbers. Panics if `x` is not a whole number of rows.
    pub fn new(x: &'a [f32], columns: usize) -> Self {
        assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
        Self { x, columns, rounded: Default::default() }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.x.len() / self.columns
    }

    /// The numbers, row after row.
    pub fn numbers(&self) -> &'a [f32] {
        self.x
    }

    /// The same rounded.
    pub(crate) fn rounded(&self, backend: &Backend, precision: Precision) -> &Rounded {
        self.rounded[precision as usize]
            .get_or_init(|| Rounded::new(backend, self.x, self.columns, precision))
    }
}
