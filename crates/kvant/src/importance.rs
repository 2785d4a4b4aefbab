//! The job `imatrix`: an importance matrix, gathered on text.

use crate::{CALIBRATION_CONTEXT, CalibrationText, Error, Model, calibration};
use kvant_eval::Progress;
use kvant_io::OutputFile;
use kvant_kernels::Backend;
use kvant_quant::gather_importance;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Gathers how much each input column of each matrix matters, and writes llama.cpp's file of it.
pub struct GatherImportance<'a> {
    /// The model.
    pub model: &'a Model,
    /// The file to write: a GGUF.
    pub output: PathBuf,
    /// The texts.
    pub texts: Vec<CalibrationText>,
    /// Contexts of 512 tokens at most.
    pub contexts: Option<usize>,
    /// Whether an existing file is replaced.
    pub force: bool,
}

/// What was gathered.
#[derive(Serialize, schemars::JsonSchema)]
pub struct GatheredImportance {
    /// Tokens that were run.
    pub tokens: usize,
    /// Every matrix.
    pub tensors: Vec<TensorImportance>,
}

/// One matrix.
#[derive(Serialize, schemars::JsonSchema)]
pub struct TensorImportance {
    name: String,
    columns: usize,
    mean_square: f64,
}

impl<'a> GatherImportance<'a> {
    /// On the built-in calibration text, to the file at `output`.
    pub fn new(model: &'a Model, output: &Path) -> Self {
        let texts = vec![CalibrationText::BuiltIn];
        Self { model, output: output.to_owned(), texts, contexts: None, force: false }
    }

    /// Does it.
    ///
    /// # Errors
    /// A model without a tokenizer, texts that are too short, what reading and writing say.
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
