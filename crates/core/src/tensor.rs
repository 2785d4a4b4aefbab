//! Tensors: rows of whole blocks of one format, over shared bytes.

use crate::{Bytes, Error, FormatRef, Shape};

/// An array of values without a name: its shape `(…, rows, columns)`, its format, and exactly the bytes of both.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Shape,
    format: FormatRef,
    bytes: Bytes,
}

impl Tensor {
    /// Creates a tensor from its shape, format and bytes.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] if a row does not consist of whole blocks, [`Error::Length`] if the number of bytes is
    /// wrong.
    pub fn new(shape: Shape, format: FormatRef, bytes: Bytes) -> Result<Self, Error> {
        let expected = format.tensor_bytes(&shape)?;
        if bytes.len() != expected {
            return Err(Error::Length { shape, format: format.name(), expected, found: bytes.len() });
        }
        Ok(Self { shape, format, bytes })
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The storage format.
    pub fn format(&self) -> FormatRef {
        self.format
    }

    /// All bytes, row after row.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The number of bytes in one row.
    pub fn row_bytes(&self) -> usize {
        let block = self.format.block();
        self.shape.columns() / block.elements * block.bytes
    }

    /// The bytes of rows `start..start + count`. Panics if the tensor does not have these rows.
    pub fn rows(&self, start: usize, count: usize) -> &[u8] {
        let row = self.row_bytes();
        &self.bytes[start * row..(start + count) * row]
    }

    /// Dequantizes all values, row after row.
    pub fn decode(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.elements()];
        self.format.decode(&self.bytes, &mut values);
        values
    }
}
