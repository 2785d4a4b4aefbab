//! The job `quantize`: chooses all settings from the options and quantizes a model.

mod report;
mod settings;

pub use report::Quantized;
pub(crate) use settings::{file_type, method_named};

use crate::{CalibrationText, Error, Model};
use kvant_eval::Progress;
use kvant_io::OutputFile;
use kvant_kernels::Backend;
use kvant_quant::{
    Allocation, Need, Recipe, allocate, allocation_bytes, memory_bytes, overhead_bytes, plan_tensors,
    planned_bytes, work_bytes,
};
use kvant_report::size;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The size limit of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bytes of the whole file.
    Bytes(u64),
    /// Bits of tensor data per weight.
    BitsPerWeight(f64),
}

/// Quantizes a model.
///
/// ```
/// use kvant::kernels::{Backend, Isa};
/// use kvant::{Model, Quantize};
///
/// # fn main() -> Result<(), kvant::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let output = folder.path().join("small.gguf");
/// let model = Model::open("demo".as_ref())?;
/// let job = Quantize {
///     format: "q4_0".to_owned(),
///     method: Some("rtn".to_owned()),
///     ..Quantize::new(&model, &output)
/// };
/// let report = job.run(&Backend::new(Isa::best(), 2), &())?;
/// assert!(report.bpw < 6.0 && output.exists());
/// # Ok(())
/// # }
/// ```
pub struct Quantize<'a> {
    /// The model.
    pub model: &'a Model,
    /// The file to write: a GGUF.
    pub output: PathBuf,
    /// The file type, for example `q4_k_m`.
    pub format: String,
    /// A size limit. If a limit is given, the formats are chosen for this limit, and the file type has no effect.
    pub budget: Option<Budget>,
    /// The method; `None` takes the best method that the model and the other options allow.
    pub method: Option<String>,
    /// Calibration texts, for methods that need them.
    pub calibration: Vec<CalibrationText>,
    /// Maximum number of tokens of the calibration texts; `None` uses [`crate::calibration_tokens`].
    pub calibration_tokens: Option<usize>,
    /// Number of tokens of self-generated calibration text. `None` means half the number of calibration tokens, up to a
    /// limit; if the model does not fit in memory, `None` means 0.
    pub self_generated_tokens: Option<usize>,
    /// llama.cpp's importance matrix, for the method `imatrix`.
    pub importance: Option<PathBuf>,
    /// Damping: the share of the diagonal's mean that is added to the Gram matrix's diagonal.
    pub damping: Option<f32>,
    /// Damping for the correction of errors of earlier linear layers (maps).
    pub correction_damping: Option<f32>,
    /// Formats of single tensors, each `PATTERN=FORMAT`. If several patterns match a tensor, the last pattern applies.
    pub overrides: Vec<String>,
    /// True uses the file type's main format for every tensor, without per-tensor rules.
    pub pure: bool,
    /// True allows an input that is already quantized.
    pub allow_requantize: bool,
    /// The seed of all random values.
    pub seed: u64,
    /// The work folder for unfinished work. The default is the output's path with `.work` appended.
    pub work: PathBuf,
    /// True deletes unfinished work and starts over.
    pub fresh: bool,
    /// Memory limit of the job; `None` sets no limit.
    pub memory_bytes: Option<u64>,
    /// True replaces existing files.
    pub force: bool,
}

impl<'a> Quantize<'a> {
    /// Quantizes to `q4_k_m` with the best method, on the built-in calibration text.
    pub fn new(model: &'a Model, output: &Path) -> Self {
        let mut work = output.to_owned().into_os_string();
        work.push(".work");
        Self {
            model,
            output: output.to_owned(),
            format: "q4_k_m".to_owned(),
            budget: None,
            method: None,
            calibration: vec![CalibrationText::BuiltIn],
            calibration_tokens: None,
            self_generated_tokens: None,
            importance: None,
            damping: None,
            correction_damping: None,
            overrides: Vec::new(),
            pure: false,
            allow_requantize: false,
            seed: 0,
            work: work.into(),
            fresh: false,
            memory_bytes: None,
            force: false,
        }
    }

    /// Runs the quantization.
    ///
    /// # Errors
    /// Before the quantization starts: options that conflict, files that cannot be read or written, a memory limit that
    /// is too low. Later: errors of solving and writing. On an error no output file is created.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<Quantized, Error> {
        let begin = Instant::now();
        self.check_files()?;
        let recipe = self.recipe(progress)?;
        if recipe.method.need() == Need::Hessian {
            OutputFile::check_apart(&[&self.output, &self.card(), &recipe.work])?;
            kvant_quant::check_work_folder(&recipe.work)?;
        }
        let (recipe, allocation) = self.allocated(recipe, backend, progress)?;
        self.prepare(&recipe, backend, progress)?;
        progress.begin("quantize");
        let weights = self.model.weights();
        let report = kvant_quant::quantize(weights, &recipe, &self.output, self.force, backend, progress);
        let report = report.inspect_err(|error| {
            if matches!(error, kvant_quant::Error::Interrupted) && recipe.method.need() == Need::Hessian {
                progress.note(&format!(
                    "what is solved so far lies in {}; the same command goes on from there",
                    recipe.work.display()
                ));
            }
        })?;
        Ok(Quantized::new(self, &recipe, report, allocation, backend, begin.elapsed().as_secs_f64()))
    }

    /// Returns the formats and sizes of all tensors, without quantizing them. With a budget this takes time, because
    /// the formats must be chosen first.
    ///
    /// # Errors
    /// See [`Quantize::run`], without errors of solving and writing.
    pub fn plan(&self, backend: &Backend, progress: &dyn Progress) -> Result<Quantized, Error> {
        check_output(&self.output)?;
        let recipe = self.recipe(progress)?;
        let (recipe, allocation) = self.allocated(recipe, backend, progress)?;
        Ok(Quantized::planned(self, &recipe, plan_tensors(self.model.weights(), &recipe)?, allocation))
    }

    /// Returns the path of the card with measurements, a file in the same folder as the output.
    pub fn card(&self) -> PathBuf {
        card_path(&self.output).unwrap_or_default()
    }

    /// Checks that the outputs can be written, before the quantization starts.
    fn check_files(&self) -> Result<(), Error> {
        check_output(&self.output)?;
        let texts = self.calibration.iter().filter_map(CalibrationText::file);
        let inputs: Vec<&Path> =
            [self.model.path()].into_iter().chain(texts).chain(self.importance.as_deref()).collect();
        Ok(OutputFile::check_all(&[&self.output, &self.card()], &inputs, self.force)?)
    }

    /// If there is a budget, chooses formats for the budget and adds these formats to the recipe.
    fn allocated(
        &self,
        recipe: Recipe,
        backend: &Backend,
        progress: &dyn Progress,
    ) -> Result<(Recipe, Option<Allocation>), Error> {
        let weights = self.model.weights();
        let Some(budget) = self.tensor_bytes(&recipe)? else { return Ok((recipe, None)) };
        let needed = memory_bytes(weights, &recipe, &plan_tensors(weights, &recipe)?, backend.threads());
        self.check_memory(&recipe, needed.max(allocation_bytes(weights, &recipe, backend.threads())))?;
        progress.begin("allocate");
        let found = allocate(weights, &recipe, budget, backend, progress)?;
        for (i, candidate) in found.candidates.iter().enumerate() {
            progress.inform(&format!(
                "{} {}: {}, KL divergence {:.5} with quick encoders",
                if i == 0 { "taken:" } else { "not taken:" },
                candidate.name,
                size(candidate.bytes),
                candidate.kld
            ));
        }
        let gain = 100.0 * found.next_5_percent;
        progress.inform(&format!("5 % more bytes would lower it by about {gain:.0} %"));
        Ok((recipe.allocated(weights, found.formats.clone())?, Some(found)))
    }

    /// Returns the bytes of tensor data that the budget allows; `None` without a budget.
    fn tensor_bytes(&self, recipe: &Recipe) -> Result<Option<u64>, Error> {
        let weights = self.model.weights();
        match self.budget {
            None => Ok(None),
            Some(Budget::Bytes(bytes)) => {
                let overhead = overhead_bytes(weights, recipe)?;
                let error = || Error::Budget { budget: bytes, metadata: overhead };
                Ok(Some(bytes.checked_sub(overhead).ok_or_else(error)?))
            }
            Some(Budget::BitsPerWeight(bits)) if bits.is_finite() && bits > 0.0 => {
                let elements: usize = weights.entries().iter().map(|e| e.shape.elements()).sum();
                Ok(Some((bits * elements as f64 / 8.0) as u64))
            }
            Some(Budget::BitsPerWeight(bits)) => {
                Err(Error::option(format!("--bpw {bits}"), "expected a number above 0"))
            }
        }
    }

    /// Checks the memory limit. Reports the path of the work folder and its largest size.
    fn prepare(&self, recipe: &Recipe, backend: &Backend, progress: &dyn Progress) -> Result<(), Error> {
        let weights = self.model.weights();
        let assignments = plan_tensors(weights, recipe)?;
        let needed = memory_bytes(weights, recipe, &assignments, backend.threads());
        self.check_memory(recipe, needed)?;
        let bytes = work_bytes(weights, recipe, planned_bytes(&assignments));
        if bytes > 0 {
            progress.inform(&format!(
                "work in {}, up to {}; memory up to {}",
                recipe.work.display(),
                size(bytes),
                size(needed)
            ));
        }
        Ok(())
    }

    /// Returns an error if `needed` bytes exceed the memory limit.
    fn check_memory(&self, recipe: &Recipe, needed: u64) -> Result<(), Error> {
        match self.memory_bytes {
            Some(allowed) if needed > allowed => {
                Err(Error::Memory { allowed, needed, method: recipe.method.name() })
            }
            _ => Ok(()),
        }
    }
}

/// Returns an error if the output's name does not end in `.gguf`.
pub(crate) fn check_output(path: &Path) -> Result<(), Error> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return Ok(());
    }
    Err(Error::option(path.display().to_string(), "only .gguf outputs are built yet"))
}

/// Returns the path of the card with a file's measurements: the file's path with `.card.json` appended. `None` if the
/// path has no file name.
pub(crate) fn card_path(path: &Path) -> Option<PathBuf> {
    let mut name = path.file_name()?.to_owned();
    name.push(".card.json");
    Some(path.with_file_name(name))
}
