//! The job `convert`: another container, the same values.

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
    /// Whether the output is a GGUF whatever its name is.
    pub any_name: bool,
    /// Whether an existing file is replaced.
    pub force: bool,
}

/// What a conversion came to, or would come to.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Converted {
    /// Bytes of tensor data before.
    pub bytes_in: u64,
    /// Bytes of tensor data after.
    pub bytes_out: u64,
    /// Tensors.
    pub tensors: usize,
    /// Properties of the input that the output does not express.
    pub warnings: Vec<String>,
}

impl<'a> Convert<'a> {
    /// A conversion to the file at `output`.
    pub fn new(model: &'a Model, output: &Path) -> Self {
        Self { model, output: output.to_owned(), any_name: false, force: false }
    }

    /// Does it.
    ///
    /// # Errors
    /// A tensor whose values the output cannot hold; what reading and writing say.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<Converted, Error> {
        self.check_name()?;
        OutputFile::check_all(&[&self.output], &[self.model.path()], self.force)?;
        progress.begin("convert");
        let weights = self.model.weights();
        let (file, warnings) = kvant_quant::convert(weights, &self.output, self.force, backend, progress)?;
        let (bytes_in, bytes_out) = (file.bytes_in, file.bytes_out);
        Ok(Converted { bytes_in, bytes_out, tensors: file.tensors.len(), warnings })
    }

    /// What it would do.
    ///
    /// # Errors
    /// A name that is not a GGUF's; a model that a GGUF cannot describe.
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
