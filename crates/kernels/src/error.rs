//! What can be wrong with a request to this crate.

use kvant_core::Shape;

/// An instruction set that is not there, or a tensor that is no matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No instruction set has this name.
    #[error("unknown instruction set {name:?}; known are {}", known.join(", "))]
    UnknownIsa {
        /// The name as given.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The name is known, but this processor lacks the instructions.
    #[error("this processor has no {name}; it has {}", available.join(", "))]
    AbsentIsa {
        /// The instruction set asked for.
        name: &'static str,
        /// What this processor has.
        available: Vec<&'static str>,
    },
    /// A matrix has two dimensions.
    #[error("a matrix has two dimensions, found shape {shape}")]
    NotMatrix {
        /// The tensor's shape.
        shape: Shape,
    },
    /// A cache's blocks don't divide a head.
    #[error(
        "keys and values in {format} have blocks of 32 numbers, which heads of {head_size} are no multiple of; take f16"
    )]
    HeadSize {
        /// The cache's format.
        format: &'static str,
        /// Numbers of a head.
        head_size: usize,
    },
    /// A pool of pages has no room left.
    #[error("keys and values need {needed} bytes more, and {free} are free")]
    PoolFull {
        /// Bytes that were asked for.
        needed: usize,
        /// Bytes that are free.
        free: usize,
    },
}
