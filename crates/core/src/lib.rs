//! What a number is: shapes, bytes, tensors and the formats that store them.
//!
//! Everything above this crate moves [`Tensor`]s around: rows of whole blocks of one [`Format`], over bytes that
//! are owned or mapped. A format says how a block of bytes becomes real numbers and back; one that stores integer
//! codes also opens its blocks as [`Codes`] ([`Grid`]), so that a solver can choose codes itself.
//!
//! Invariant: a [`Tensor`] always holds exactly as many bytes as its shape and format say; nothing here allocates
//! from an unchecked length. Left out on purpose: files (`kvant-io`) and fast kernels (`kvant-kernels`).

mod bytes;
mod codes;
mod error;
pub mod format;
mod shape;
mod tensor;

pub use bytes::Bytes;
pub use codes::{Codes, Levels};
pub use error::Error;
pub use format::{Block, Format, FormatRef, Grid, Part, Scaling};
pub use shape::Shape;
pub use tensor::Tensor;
