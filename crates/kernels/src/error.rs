//! The errors of this crate.

use kvant_core::Shape;

/// Error of a request to this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No instruction set has this name.
    #[error("unknown instruction set {name:?}; known are {}", known.join(", "))]
    UnknownIsa {
        /// The name that the caller gave.
        name: String,
        /// All known names.
        known: Vec<&'static str>,
    },
    /// The name is known, but this processor does not have the instruction set.
    #[error("this processor has no {name}; it has {}", available.join(", "))]
    AbsentIsa {
        /// The requested instruction set.
        name: &'static str,
        /// The instruction sets that this processor has.
        available: Vec<&'static str>,
    },
    /// The tensor does not have two dimensions.
    #[error("a matrix has two dimensions, found shape {shape}")]
    NotMatrix {
        /// The tensor's shape.
        shape: Shape,
    },
    /// A page pool does not have enough free memory.
    #[error("keys and values need {needed} more bytes, but only {free} are free")]
    PoolFull {
        /// Number of requested bytes.
        needed: usize,
        /// Number of free bytes.
        free: usize,
    },
}
