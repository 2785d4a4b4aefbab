//! Writing a checkpoint: everything announced first, then tensors in any order, then a rename.

use crate::container::gguf::GgufWriter;
use crate::{Error, Metadata};
use kvant_core::{FormatRef, Shape, Tensor};
use std::path::Path;

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Name in the file.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Shape,
    /// Storage format.
    pub format: FormatRef,
}

/// All that a file will hold, in file order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Metadata entries.
    pub metadata: Metadata,
    /// Tensors.
    pub tensors: Vec<PlannedTensor>,
}

/// A file in the making. Dropping it unfinished leaves nothing behind.
pub trait Sink: Send {
    /// Writes one planned tensor at its planned offset.
    ///
    /// # Errors
    /// A tensor that was not planned, was put before or differs from its plan; a full disk.
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<(), Error>;

    /// Checks that every planned tensor was put, begins to force the file to the disk, and says where it lies until
    /// [`Sink::finish`], which waits for the disk: the place to check it before it takes its name.
    ///
    /// # Errors
    /// A missing tensor; whatever the file system says.
    fn seal(&mut self) -> Result<&Path, Error>;

    /// Seals the file and renames it into place.
    ///
    /// # Errors
    /// As [`Sink::seal`]; an output that has come into being meanwhile, without `force`.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Starts the file `path`: GGUF, whatever its extension.
///
/// # Errors
/// As [`crate::OutputFile::create`]; a plan that the container cannot hold.
pub fn create(path: &Path, plan: &Plan, force: bool) -> Result<Box<dyn Sink>, Error> {
    Ok(Box::new(GgufWriter::create(path, plan, force)?))
}

/// Bytes of the file that [`create`] would make of a plan; `path` is named in errors.
///
/// # Errors
/// As [`create`].
pub fn file_bytes(path: &Path, plan: &Plan) -> Result<u64, Error> {
    GgufWriter::file_bytes(path, plan)
}
