//! The job `convert`: writes the same values into another container.

use crate::plan::{Assignment, kept, planned_bytes, prevailing_file_type};
use crate::solve::{Layer, RoundToNearest, Solver};
use crate::write::{FileReport, write};
use crate::{Error, Progress};
use kvant_io::Value;
use kvant_kernels::Backend;
use kvant_model::{Weights, export};
use std::path::Path;

/// Writes `weights` to `output` (GGUF) and keeps the format of every tensor. Vectors of a Hugging Face checkpoint are
/// widened to `f32`, as upstream does. Returns the report, and notes on properties that the output cannot express.
///
/// # Errors
/// The errors of [`crate::quantize`]. In addition, [`kvant_io::Error::Rounded`] for a tensor with a value that was
/// rounded when it was read.
pub fn convert(
    weights: &Weights,
    output: &Path,
    force: bool,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<(FileReport, Vec<String>), Error> {
    kvant_io::OutputFile::check(output, force)?;
    let checkpoint = weights.checkpoint();
    for info in checkpoint.tensors() {
        if let Some(element) = kvant_io::first_rounded(checkpoint, &info.name) {
            let (path, tensor) = (weights.path().to_owned(), info.name.clone());
            return Err(kvant_io::Error::Rounded { path, tensor, element }.into());
        }
    }
    let assignments = kept(weights);
    let export::Exported { mut metadata, notes } = export::gguf_metadata_and_notes(weights)?;
    if metadata.get("general.file_type").is_none() {
        metadata.set("general.file_type", Value::U32(prevailing_file_type(&assignments)));
    }
    let mut widened = |assignment: &Assignment| {
        let weight = weights.tensor(&assignment.entry.name)?;
        let layer = Layer::uncalibrated(&assignment.entry.name, &weight, backend);
        RoundToNearest.solve(&layer, assignment.format)
    };
    let report = write(weights, &assignments, metadata, &mut widened, output, force, backend, progress)?;
    Ok((report, notes))
}

/// Returns the number of bytes of tensor data that [`convert`] writes.
pub fn converted_bytes(weights: &Weights) -> u64 {
    planned_bytes(&kept(weights))
}
