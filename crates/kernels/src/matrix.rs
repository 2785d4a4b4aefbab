//! A matrix that multiplies.

use crate::{Arithmetic, Input};
use kvant_core::Tensor;
use std::any::Any;

/// A matrix of stored weights, `rows × columns`, that multiplies.
pub trait Matrix: Send + Sync {
    /// The weights as they were given.
    fn tensor(&self) -> &Tensor;

    /// Numbers a result has for each row of activations.
    fn rows(&self) -> usize {
        self.tensor().shape().rows()
    }

    /// Numbers a row of activations has.
    fn columns(&self) -> usize {
        self.tensor().shape().columns()
    }

    /// Bytes that one multiplication reads of the weights.
    fn weight_bytes(&self) -> usize {
        self.tensor().bytes().len()
    }

    /// Name of the kernel that was chosen, for example `avx2`.
    fn kernel(&self) -> String;

    /// What it multiplies.
    fn arithmetic(&self) -> Arithmetic;

    /// `y = x · Wᵀ` on the backend's threads: `x` is n × columns, `y` n × rows.
    ///
    /// Panics if the lengths are not the same number of rows.
    fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.apply(&Input::new(x, self.columns()), y);
    }

    /// The same of an input that other matrices read, too.
    fn apply(&self, x: &Input, y: &mut [f32]);

    /// The matrix as its own type: several matrices of one kind multiply together ([`crate::apply_all`]).
    #[doc(hidden)]
    fn as_any(&self) -> &dyn Any;

    /// `y += x · W` on the backend's threads: `x` is n × rows, `y` n × columns. What a gradient at this product's
    /// results means for its activations.
    ///
    /// Panics if the lengths are not the same number of rows.
    fn add_transposed(&self, x: &[f32], y: &mut [f32]);

    /// Decodes row `index` of the weights into `out`, `columns` numbers. Panics if there is no such row.
    fn row(&self, index: usize, out: &mut [f32]) {
        self.tensor().format().decode(self.tensor().rows(index, 1), out);
    }
}
