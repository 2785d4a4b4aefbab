//! Shapes, bytes, tensors and the storage formats of their values.
//!
//! The other crates pass [`Tensor`]s to each other. A tensor has rows of whole blocks of one [`Format`], over owned or
//! memory-mapped bytes. A format decodes a block of bytes to floats and encodes floats to bytes. A format with integer
//! codes can also unpack its blocks to [`Codes`] ([`Grid`]), so that a solver can choose the codes itself.
//!
//! Invariant: a [`Tensor`] has exactly the number of bytes that its shape and format require; nothing here allocates
//! from an unchecked length. Not in this crate: files (`kvant-io`) and fast kernels (`kvant-kernels`).

mod bytes;
mod codes;
mod error;
pub mod format;
mod shape;
mod tensor;

pub use bytes::Bytes;
pub use codes::{Codes, Levels};
pub use error::Error;
pub use format::{Block, Encoder, Format, FormatRef, Grid, Part, Scaling};
pub use shape::Shape;
pub use tensor::Tensor;
