//! Writes a checkpoint. A plan announces all tensors first. The tensors are then written in any order. At the end the
//! file is renamed to its final name.

use crate::container::gguf::GgufWriter;
use crate::{Error, Metadata};
use kvant_core::{FormatRef, Shape, Tensor};
use std::path::Path;

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Name of the tensor in the file.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Shape,
    /// Format in which the tensor is stored.
    pub format: FormatRef,
}

/// The full content of a file, in file order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// GGUF metadata.
    pub metadata: Metadata,
    /// Tensors, in file order.
    pub tensors: Vec<PlannedTensor>,
}

/// A file that is being written. If it is dropped before [`Sink::finish`], no file remains on the disk.
pub trait Sink: Send {
    /// Writes one planned tensor at its planned offset.
    ///
    /// # Errors
    /// [`Error::Unplanned`], [`Error::PutTwice`] or [`Error::NotAsPlanned`] if the tensor does not match the plan;
    /// [`Error::DiskFull`] if the disk has no room.
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<(), Error>;

    /// Checks that every planned tensor was put, and starts to force the file to the disk. Returns the path of the
    /// temporary file, so the caller can check its content before [`Sink::finish`] gives it the final name.
    /// [`Sink::finish`] waits for the disk.
    ///
    /// # Errors
    /// [`Error::NotPut`] if a planned tensor was not put; the errors of the file system.
    fn seal(&mut self) -> Result<&Path, Error>;

    /// Seals the file (see [`Sink::seal`]) and renames it to its final name.
    ///
    /// # Errors
    /// The errors of [`Sink::seal`]; [`Error::Exists`] if another process has created the output in the meantime and
    /// `force` is false.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Starts to write the file `path`. Its format is always GGUF, independent of the extension.
///
/// # Errors
/// The errors of [`crate::OutputFile::create`]; an error for a plan that a GGUF file cannot hold.
pub fn create(path: &Path, plan: &Plan, force: bool) -> Result<Box<dyn Sink>, Error> {
    Ok(Box::new(GgufWriter::create(path, plan, force)?))
}

/// Size in bytes of the file that [`create`] would write for a plan. `path` is used only in errors.
///
/// # Errors
/// An error for a plan that a GGUF file cannot hold.
pub fn file_bytes(path: &Path, plan: &Plan) -> Result<u64, Error> {
    GgufWriter::file_bytes(path, plan)
}
