//! A model on disk: names, tensors without a copy, and what it says about itself.

use crate::{Error, Limits, Meta};
use kvant_core::{FormatRef, Shape, Tensor};
use std::path::Path;

/// What is known of a tensor without touching its bytes.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The tensor's name in this checkpoint's own naming.
    pub name: String,
    /// Shape, outermost dimension first (GGUF's order is reversed by the reader).
    pub shape: Shape,
    /// Storage format; a type that kvant cannot decode is an error of [`open`] that names the tensor.
    pub format: FormatRef,
    /// Bytes in the file.
    pub bytes: usize,
}

/// A model on disk.
pub trait Checkpoint: Send + Sync {
    /// Where it lies.
    fn path(&self) -> &Path;

    /// What it says about itself.
    fn meta(&self) -> &Meta;

    /// All tensors, in file order.
    fn tensors(&self) -> &[TensorInfo];

    /// One tensor, zero copy over the map.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    fn tensor(&self, name: &str) -> Result<Tensor, Error>;

    /// What is known of one tensor.
    fn info(&self, name: &str) -> Option<&TensorInfo>;
}

/// Opens a `.gguf` file, a `.safetensors` file (its folder's JSON files beside it) or a Hugging Face folder.
///
/// Only headers are read; the kind is told by content (GGUF's magic), not by extension alone.
///
/// # Errors
/// Every fault of the file with path, tensor and offset.
pub fn open(path: &Path, limits: &Limits) -> Result<Box<dyn Checkpoint>, Error> {
    let _ = (path, limits);
    todo!()
}
