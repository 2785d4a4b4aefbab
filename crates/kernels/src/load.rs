//! Converts a tensor to the matrix type that this processor multiplies fastest.

use crate::cpu::dequantized::Dequantized;
use crate::cpu::packed_codes::{self, PackedCodes};
use crate::cpu::packed_float::PackedFloat;
use crate::{Arithmetic, Backend, Error, Input, Matrix};
use kvant_core::{Bytes, FormatRef, Shape, Tensor};

impl Backend {
    /// Prepares a matrix for multiplication: chooses its kernel and keeps the tensor. With [`Arithmetic::Integer`], a
    /// repacked copy of the weights may be added. The copy has about the size of the tensor.
    ///
    /// # Errors
    /// [`Error::NotMatrix`] if the tensor does not have two dimensions.
    pub fn load(&self, tensor: &Tensor) -> Result<Box<dyn Matrix>, Error> {
        if tensor.shape().dimensions().len() != 2 {
            return Err(Error::NotMatrix { shape: *tensor.shape() });
        }
        if let Arithmetic::Integer(precision) = self.arithmetic() {
            if let Some(codes) = PackedCodes::new(self, precision, tensor) {
                return Ok(Box::new(codes));
            }
            if let Some(floats) = PackedFloat::new(self, tensor) {
                return Ok(Box::new(floats));
            }
        }
        Ok(Box::new(Dequantized::new(self, tensor)))
    }
}

/// Multiplies each of several matrices with its own input, as [`Matrix::apply`] does for one matrix. All matrices belong
/// to the same backend and have the same number of columns. If all matrices have integer codes, one parallel run computes
/// all products. An input that several matrices share is rounded once.
pub fn apply_each(matrices: &[&dyn Matrix], inputs: &[&Input], results: &mut [&mut [f32]]) {
    assert!(matrices.len() == inputs.len() && inputs.len() == results.len(), "an input for every matrix");
    let codes: Vec<&PackedCodes> =
        matrices.iter().filter_map(|matrix| matrix.as_any().downcast_ref()).collect();
    if codes.len() < matrices.len() || codes.is_empty() {
        for ((matrix, x), result) in matrices.iter().zip(inputs).zip(results) {
            matrix.apply(x, result);
        }
        return;
    }
    packed_codes::multiply(&codes, inputs, results);
}

/// Returns the name of the kernel that `backend` chooses for matrices in `format`.
pub fn kernel(backend: &Backend, format: FormatRef) -> String {
    let block = format.block();
    let shape = Shape::new(&[1, block.elements]).expect("a block is a row");
    let tensor = Tensor::new(shape, format, Bytes::from(vec![0; block.bytes])).expect("one block");
    backend.load(&tensor).expect("a matrix").kernel()
}
