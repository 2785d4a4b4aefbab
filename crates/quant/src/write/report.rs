//! Reports on a tensor, a file and a whole quantization.

use super::card::Card;
use crate::solve::{Flag, Settings};
use crate::walk::{Cost, Expected};
use serde::Serialize;

/// The result for one tensor.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct TensorReport {
    /// GGUF name.
    pub name: String,
    /// Format in the input.
    pub from: &'static str,
    /// Format in the output.
    pub format: &'static str,
    /// Bytes in the output.
    pub bytes: u64,
    /// Root mean square of the error divided by the root mean square of the weights; 0 if the tensor did not change.
    pub rel_rmse: f64,
    /// Special properties: `fallback`, `kept`, `planned`, `zero`, `uncalibrated`, `uncorrected`, `uncoupled`,
    /// `dead-columns`, `lattice`, `large-error`, `all-zero`.
    pub flags: Vec<Flag>,
    /// The settings that the method chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Settings>,
}

/// The result for a file.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// Bytes of tensor data in the input.
    pub bytes_in: u64,
    /// Bytes of tensor data in the output.
    pub bytes_out: u64,
    /// Bits of tensor data per weight.
    pub bpw: f64,
    /// All tensors.
    pub tensors: Vec<TensorReport>,
    /// blake3 over the written tensors.
    pub output_blake3: String,
}

/// The result of a quantization.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file.
    pub file: FileReport,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// The cost of the walk through the network; `None` for methods without a walk. A resumed run counts only its own
    /// steps.
    pub cost: Option<Cost>,
    /// The loss of the quantized network on calibration text, if the method walks through the network.
    pub expected: Option<Expected>,
    /// The card in the file, with the hash of the output.
    pub card: Card,
}
