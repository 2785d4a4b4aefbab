//! The result of a quantization.

use super::Quantize;
use crate::Error;
use kvant_eval::peak_resident_bytes;
use kvant_io::OutputFile;
use kvant_kernels::Backend;
use kvant_quant::{
    Allocation, Assignment, Cost, Expected, Flag, HostCard, Recipe, Report, TensorReport, planned_bytes,
};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The result of a quantization, or the plan of a quantization.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Quantized {
    /// The output file.
    pub output: String,
    /// The file type, or `mixed`.
    pub format: &'static str,
    /// The method.
    pub method: &'static str,
    /// Bytes of tensor data in the input.
    pub bytes_in: u64,
    /// Bytes of tensor data in the output.
    pub bytes_out: u64,
    /// Bits of tensor data per weight.
    pub bpw: f64,
    /// Wall time.
    pub seconds: f64,
    /// Peak resident memory of the process.
    pub peak_rss_bytes: u64,
    /// Tokens of calibration text.
    pub calib_tokens: u64,
    /// Tokens of self-generated calibration text.
    pub own_tokens: u64,
    /// The seed of noise, of self-generated text and of the random labels for gradients.
    pub seed: u64,
    /// All tensors.
    pub tensors: Vec<TensorReport>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// The cost of the walk through the network, for methods that walk through the network block by block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// The loss of the quantized network on calibration text, for methods that walk through the network block by block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// The formats that were chosen for a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// The path of the file; `output` replaces what is not UTF-8 in it.
    #[serde(skip)]
    path: PathBuf,
    /// Path and content of the card with measurements; `None` for a plan.
    #[serde(skip)]
    host: Option<(PathBuf, HostCard)>,
}

impl Quantized {
    /// Creates the result of a finished quantization.
    pub(super) fn new(
        job: &Quantize,
        recipe: &Recipe,
        report: Report,
        allocation: Option<Allocation>,
        backend: &Backend,
        seconds: f64,
    ) -> Self {
        let peak_rss_bytes = peak_resident_bytes();
        let host = HostCard {
            card: report.card,
            seconds,
            threads: backend.threads(),
            peak_rss_bytes,
            host: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            finished_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        };
        Self {
            output: job.output.to_string_lossy().into_owned(),
            path: job.output.clone(),
            format: recipe.format_name(),
            method: recipe.method.name(),
            bytes_in: report.file.bytes_in,
            bytes_out: report.file.bytes_out,
            bpw: report.file.bpw,
            seconds,
            peak_rss_bytes,
            calib_tokens: recipe.calibration.as_ref().map_or(0, |c| c.tokens() as u64),
            own_tokens: recipe
                .calibration
                .as_ref()
                .map_or(0, |c| (c.length() * recipe.self_generated) as u64),
            seed: recipe.seed,
            tensors: report.file.tensors,
            warnings: report.warnings,
            cost: report.cost,
            expected: report.expected,
            allocation,
            host: Some((job.card(), host)),
        }
    }

    /// Creates the plan of a quantization.
    pub(super) fn planned(
        job: &Quantize,
        recipe: &Recipe,
        assignments: Vec<Assignment>,
        allocation: Option<Allocation>,
    ) -> Self {
        let bytes_out = planned_bytes(&assignments);
        let elements: usize = assignments.iter().map(|a| a.entry.shape.elements()).sum();
        let bytes_in = assignments.iter().map(|a| a.entry.format.tensor_bytes(&a.entry.shape));
        let bytes_in = bytes_in.map(|bytes| bytes.map_or(0, |n| n as u64)).sum();
        let tensors: Vec<TensorReport> = assignments
            .into_iter()
            .map(|a| TensorReport {
                from: a.entry.format.name(),
                format: a.format.name(),
                bytes: a.format.tensor_bytes(&a.entry.shape).map_or(0, |n| n as u64),
                name: a.entry.name,
                rel_rmse: 0.0,
                flags: vec![Flag::Planned],
                chosen: None,
            })
            .collect();
        Self {
            output: job.output.to_string_lossy().into_owned(),
            path: job.output.clone(),
            format: recipe.format_name(),
            method: recipe.method.name(),
            bytes_in,
            bytes_out,
            bpw: bytes_out as f64 * 8.0 / elements.max(1) as f64,
            seconds: 0.0,
            peak_rss_bytes: peak_resident_bytes(),
            calib_tokens: 0,
            own_tokens: 0,
            seed: recipe.seed,
            tensors,
            warnings: Vec::new(),
            cost: None,
            expected: None,
            allocation,
            host: None,
        }
    }

    /// Writes the card with measurements to a file in the same folder as the output. Does nothing for a plan.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_card(&self, force: bool) -> Result<(), Error> {
        let Some((path, card)) = &self.host else { return Ok(()) };
        let text = serde_json::to_string_pretty(card).map_err(|e| Error::Result(e.into()))? + "\n";
        Ok(OutputFile::write_whole(path, text.as_bytes(), force)?)
    }

    /// Returns the size of the written file in bytes.
    ///
    /// # Errors
    /// The errors of the file system.
    pub fn file_bytes(&self) -> Result<u64, Error> {
        let entry = std::fs::metadata(&self.path);
        Ok(entry.map_err(|e| Error::io(&self.path, "reading the size of", e))?.len())
    }
}
