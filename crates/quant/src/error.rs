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
    /// The work folder.
    #[error("{path}: {source}")]
    Work {
        /// The file in it.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
    /// Another process works there.
    #[error("{path}: another run is at work there; wait for it, or name another folder with --work")]
    WorkInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A work folder of another input, recipe or text.
    #[error(
        "{path}: holds the unfinished work of another recipe or input; --fresh starts over, --work names another \
         folder"
    )]
    WorkOfAnother {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the work folder that is not what was saved.
    #[error("{path}: is damaged; --fresh starts over")]
    WorkDamaged {
        /// The file.
        path: PathBuf,
    },
    /// Calibration text of less than one context.
    #[error("the calibration text has {found} tokens, less than one context of {context}")]
    ShortCalibration {
        /// Tokens found.
        found: usize,
        /// Tokens a context.
        context: usize,
    },
    /// A method that needs text, and none was given.
    #[error("method {method} needs calibration text: --calib FILE or --calib builtin")]
    NoCalibration {
        /// The method.
        method: &'static str,
    },
    /// Stopped by the user; nothing was written.
    #[error("interrupted; no output was written")]
    Interrupted,
}
