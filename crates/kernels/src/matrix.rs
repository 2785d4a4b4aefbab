//! The interface of a loaded weight matrix.

use crate::{Arithmetic, Input};
use kvant_core::Tensor;
use std::any::Any;

/// A loaded weight matrix W with the shape rows × columns.
pub trait Matrix: Send + Sync {
    /// Returns the tensor of the original weights.
    fn tensor(&self) -> &Tensor;

    /// Number of rows, which is the number of results per row of activations.
    fn rows(&self) -> usize {
        self.tensor().shape().rows()
    }

    /// Number of columns, which is the number of floats in a row of activations.
    fn columns(&self) -> usize {
        self.tensor().shape().columns()
    }

    /// Bytes of weights that one multiplication reads.
    fn weight_bytes(&self) -> usize {
        self.tensor().bytes().len()
    }

    /// Name of the chosen kernel, for example `avx2`.
    fn kernel(&self) -> String;

    /// The arithmetic of the products with this matrix.
    fn arithmetic(&self) -> Arithmetic;

    /// Computes `y = x · Wᵀ` on the backend's threads. `x` has the shape n × columns, and `y` has the shape n × rows.
    ///
    /// Panics if the lengths of `x` and `y` don't match the shapes for the same n.
    fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.apply(&Input::new(x, self.columns()), y);
    }

    /// Computes the same product as [`Matrix::multiply`]. Other matrices can use the same [`Input`], so that its
    /// activations are rounded only one time.
    fn apply(&self, x: &Input, y: &mut [f32]);

    /// Allows a downcast to the concrete type, which [`crate::apply_each`] needs.
    #[doc(hidden)]
    fn as_any(&self) -> &dyn Any;

    /// Computes `y += x · W` on the backend's threads. `x` has the shape n × rows, and `y` has the shape n × columns.
    /// This is the backward pass of [`Matrix::multiply`]. `x` is the gradient with respect to its result; the function
    /// adds the gradient with respect to its input to `y`.
    ///
    /// Panics if the lengths of `x` and `y` don't match the shapes for the same n.
    fn add_transposed(&self, x: &[f32], y: &mut [f32]);

    /// Decodes row `index` of the weights into `out`, which has `columns` floats. Panics if there is no such row.
    fn row(&self, index: usize, out: &mut [f32]) {
        self.tensor().format().decode(self.tensor().rows(index, 1), out);
    }
}
