//! The job `convert`: writes the same values into another container.

use crate::quantize::check_output;
use crate::{Error, Model};
use kvant_eval::Progress;
use kvant_io::OutputFile;
use kvant_kernels::Backend;
use kvant_model::export;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Writes a model into another container. Each tensor keeps its values.
pub struct Convert<'a> {
    /// The model.
    pub model: &'a Model,
    /// The file to write: a GGUF.
    pub output: PathBuf,
    /// True allows any name for the output. The output is a GGUF in all cases.
    pub any_name: bool,
    /// True replaces an existing file.
    pub force: bool,
}

/// The result of a conversion, or the plan of a conversion.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Converted {
    /// Bytes of tensor data in the input.
    pub bytes_in: u64,
    /// Bytes of tensor data in the output.
    pub bytes_out: u64,
    /// The number of tensors.
    pub tensors: usize,
    /// Properties of the input that the output cannot express.
    pub warnings: Vec<String>,
}

impl<'a> Convert<'a> {
    /// Creates a conversion to the file at `output`.
    pub fn new(model: &'a Model, output: &Path) -> Self {
        Self { model, output: output.to_owned(), any_name: false, force: false }
    }

    /// Runs the conversion.
    ///
    /// # Errors
    /// A tensor whose values the output cannot hold; errors of reading and writing.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<Converted, Error> {
        self.check_name()?;
        OutputFile::check_all(&[&self.output], &[self.model.path()], self.force)?;
        progress.begin("convert");
        let weights = self.model.weights();
        let (file, warnings) = kvant_quant::convert(weights, &self.output, self.force, backend, progress)?;
        let (bytes_in, bytes_out) = (file.bytes_in, file.bytes_out);
        Ok(Converted { bytes_in, bytes_out, tensors: file.tensors.len(), warnings })
    }

    /// Returns the result that [`Convert::run`] would have, without writing a file.
    ///
    /// # Errors
    /// An output name without `.gguf`; a model that a GGUF cannot describe.
    pub fn plan(&self) -> Result<Converted, Error> {
        self.check_name()?;
        let weights = self.model.weights();
        Ok(Converted {
            bytes_in: weights.checkpoint().tensors().iter().map(|t| t.bytes as u64).sum(),
            bytes_out: kvant_quant::converted_bytes(weights),
            tensors: weights.entries().len(),
            warnings: export::gguf_metadata_and_notes(weights)?.notes,
        })
    }

    fn check_name(&self) -> Result<(), Error> {
        if self.any_name { Ok(()) } else { check_output(&self.output) }
    }
}
