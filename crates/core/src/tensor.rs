//! Rows of whole blocks of one format over shared bytes.

use crate::{Bytes, Error, FormatRef, Shape};

/// A named-elsewhere array of numbers: shape `(…, rows, columns)`, one format, and exactly the bytes they need.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Shape,
    format: FormatRef,
    bytes: Bytes,
}

impl Tensor {
    /// Joins shape, format and bytes.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] where a row is not whole blocks, [`Error::Length`] where the bytes don't match.
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

    /// The format of every block.
    pub fn format(&self) -> FormatRef {
        self.format
    }

    /// All bytes, row after row.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        let block = self.format.block();
        self.shape.columns() / block.elements * block.bytes
    }

    /// The bytes of rows `start..start + count`. Panics if they lie outside the tensor.
    pub fn rows(&self, start: usize, count: usize) -> &[u8] {
        let row = self.row_bytes();
        &self.bytes[start * row..(start + count) * row]
    }

    /// All values as real numbers, `elements()` of them, row after row.
    pub fn decode(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.elements()];
        self.format.decode(&self.bytes, &mut values);
        values
    }
}
