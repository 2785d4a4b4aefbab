//! What can be wrong with a shape or a tensor, before any file or kernel is involved.

use crate::Shape;

/// A shape, a format and a byte length that don't go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More dimensions than any container here stores, or none.
    #[error("a tensor has 1 to {max} dimensions, found {found}")]
    Dimensions {
        /// How many were given.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// The product of the dimensions, or the byte length, does not fit in memory's address range.
    #[error("shape {dimensions:?} has more elements than this machine can address")]
    TooLarge {
        /// The dimensions as given, outermost first.
        dimensions: Vec<usize>,
    },
    /// The rows cannot be cut into whole blocks.
    #[error("rows of {columns} elements are not whole blocks of {block_elements} ({format})")]
    PartialBlock {
        /// Row length.
        columns: usize,
        /// Elements a block.
        block_elements: usize,
        /// The format's name.
        format: &'static str,
    },
    /// The bytes given are more or fewer than shape and format ask for.
    #[error("shape {shape} in {format} takes {expected} bytes, found {found}")]
    Length {
        /// The tensor's shape.
        shape: Shape,
        /// The format's name.
        format: &'static str,
        /// Bytes that shape and format ask for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}
