//! What became of a tensor and of a whole model.

use super::card::Card;
use crate::solve::Settings;
use crate::walk::{Cost, Expected};
use serde::Serialize;

/// What became of one tensor.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct TensorReport {
    /// GGUF name.
    pub name: String,
    /// Format before.
    pub from: &'static str,
    /// Format after.
    pub format: &'static str,
    /// Bytes after.
    pub bytes: u64,
    /// Root mean square of the error over that of the weights; 0 where nothing changed.
    pub rel_rmse: f64,
    /// What is special: `fallback`, `kept`, `planned`, `zero`, `uncalibrated`, `uncorrected`, `uncoupled`,
    /// `dead-columns`, `lattice`, `large-error`, `all-zero`.
    pub flags: Vec<&'static str>,
    /// What a method that chooses has chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Settings>,
}

/// What became of a file.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// Bytes of tensor data before.
    pub bytes_in: u64,
    /// Bytes of tensor data after.
    pub bytes_out: u64,
    /// Bits a weight.
    pub bpw: f64,
    /// Every tensor.
    pub tensors: Vec<TensorReport>,
    /// blake3 over the written tensors.
    pub output_blake3: String,
}

/// What became of a model.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file.
    pub file: FileReport,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// What the walk through the network cost, where the method makes one; a run that went on counts its own part.
    pub cost: Option<Cost>,
    /// What the result lost on calibration text, where the method walks through the network.
    pub expected: Option<Expected>,
    /// The card in the file, output hash added.
    pub card: Card,
}
