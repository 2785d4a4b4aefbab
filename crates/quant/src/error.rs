//! What can go wrong between a checkpoint and a smaller one.

use std::path::PathBuf;

/// A fault of quantizing, with its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// The network.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// A shape that the chosen format cannot hold.
    #[error("tensor {tensor}: {source}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        source: kvant_core::Error,
    },
    /// A weight that is no number.
    #[error("{path}: tensor {tensor}, element {element}: {value} is not finite; the input is damaged")]
    NotFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element, row-major.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// A value that the format's scales cannot hold.
    #[error(
        "{path}: tensor {tensor}, element {element}: {value} is beyond what {format} can store; use bf16, f32 or \
         --set for this tensor"
    )]
    Overflow {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the first element that came back infinite or NaN.
        element: usize,
        /// Its value before.
        value: f32,
        /// The format asked for.
        format: &'static str,
    },
    /// The input holds quantized tensors already.
    #[error(
        "{path}: tensor {tensor} is already quantized ({format}); quantizing it again loses more than starting from \
         the original. Use the 16-bit original, or --allow-requantize"
    )]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// Its format.
        format: &'static str,
    },
    /// What was read back differs from what was written.
    #[error("{path}: tensor {tensor} reads back differently from what was written; is the disk sound?")]
    ReadBack {
        /// The output.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The written network gives no finite logits.
    #[error("{path}: a forward pass on the written file gives {value} at logit {token}")]
    ForwardPass {
        /// The output.
        path: PathBuf,
        /// Which logit.
        token: usize,
        /// What it was.
        value: f32,
    },
    /// Stopped by the user; nothing was written.
    #[error("interrupted; nothing was written")]
    Interrupted,
}
