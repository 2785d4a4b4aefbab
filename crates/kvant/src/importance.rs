//! The job `imatrix`: gathers an importance matrix on text.

use crate::{CALIBRATION_CONTEXT, CalibrationText, Error, Model, calibration};
use kvant_eval::Progress;
use kvant_io::OutputFile;
use kvant_kernels::Backend;
use kvant_quant::gather_importance;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Gathers the importance of each input column of each matrix, and writes it as llama.cpp's imatrix file.
pub struct GatherImportance<'a> {
    /// The model.
    pub model: &'a Model,
    /// The file to write: the older format if the name ends in `.dat`, otherwise a GGUF.
    pub output: PathBuf,
    /// The calibration texts.
    pub texts: Vec<CalibrationText>,
    /// Maximum number of contexts of 512 tokens; `None` uses all contexts.
    pub contexts: Option<usize>,
    /// True replaces an existing file.
    pub force: bool,
}

/// The gathered importance.
#[derive(Serialize, schemars::JsonSchema)]
pub struct GatheredImportance {
    /// The number of calibration tokens.
    pub tokens: usize,
    /// All matrices.
    pub tensors: Vec<TensorImportance>,
}

/// The importance of one matrix: the mean square of the matrix's input over all columns.
#[derive(Serialize, schemars::JsonSchema)]
pub struct TensorImportance {
    name: String,
    columns: usize,
    mean_square: f64,
}

impl<'a> GatherImportance<'a> {
    /// Gathers on the built-in calibration text and writes to `output`.
    pub fn new(model: &'a Model, output: &Path) -> Self {
        let texts = vec![CalibrationText::BuiltIn];
        Self { model, output: output.to_owned(), texts, contexts: None, force: false }
    }

    /// Gathers the importance and writes the file.
    ///
    /// # Errors
    /// A model without a tokenizer; texts that are too short; errors of reading and writing.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<GatheredImportance, Error> {
        let files = self.texts.iter().filter_map(CalibrationText::file);
        let inputs: Vec<&Path> = [self.model.path()].into_iter().chain(files).collect();
        OutputFile::check_all(&[&self.output], &inputs, self.force)?;
        let weights = self.model.weights();
        let length = CALIBRATION_CONTEXT.min(weights.spec().context);
        let most = self.contexts.map_or(usize::MAX, |n| n.saturating_mul(length));
        let calibrated = calibration(&self.texts, most, None, weights, &self.model.tokenizer()?)?;
        calibrated.notes.iter().for_each(|note| progress.note(note));
        progress.begin("imatrix");
        let importance = gather_importance(weights, &calibrated.calibration, backend, progress)?;
        importance.write(&self.output, self.force)?;
        let tensors = importance.entries.iter().map(|(name, entry)| TensorImportance {
            name: name.clone(),
            columns: entry.sums.len(),
            mean_square: entry.sums.iter().map(|&s| f64::from(s)).sum::<f64>()
                / (entry.sums.len() as f64 * f64::from(entry.counts[0])),
        });
        Ok(GatheredImportance { tokens: calibrated.calibration.tokens(), tensors: tensors.collect() })
    }
}
