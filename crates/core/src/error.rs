//! Errors of shapes and tensors.

use crate::Shape;

/// An invalid shape, or a shape, a format and a byte length that do not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No dimensions, or more than any container format here stores.
    #[error("a tensor has 1 to {max} dimensions, found {found}")]
    Dimensions {
        /// The given number of dimensions.
        found: usize,
        /// The largest number of dimensions.
        max: usize,
    },
    /// The product of the dimensions, or the byte length, exceeds the address range.
    #[error("shape {dimensions:?} has more elements than this machine can address")]
    TooLarge {
        /// The given dimensions, outermost first.
        dimensions: Vec<usize>,
    },
    /// The rows do not consist of whole blocks.
    #[error("rows of {columns} elements are not whole blocks of {block_elements} ({format})")]
    PartialBlock {
        /// Row length.
        columns: usize,
        /// Elements per block.
        block_elements: usize,
        /// The format's name.
        format: &'static str,
    },
    /// The number of bytes does not match the shape and the format.
    #[error("shape {shape} in {format} takes {expected} bytes, found {found}")]
    Length {
        /// The tensor's shape.
        shape: Shape,
        /// The format's name.
        format: &'static str,
        /// The number of bytes that the shape and the format require.
        expected: usize,
        /// The given number of bytes.
        found: usize,
    },
}
