//! The card: a record of how a file was made.
//!
//! [`Card`] depends only on input, recipe and seed. It is stored in the file (`kvant.card`, JSON, at most 16 KiB).
//! [`HostCard`] contains measurements of this machine. It is stored in the separate file `OUT.card.json`, where OUT is
//! the path of the output.

use crate::solve::Settings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The metadata key of the card in a GGUF.
pub const CARD_KEY: &str = "kvant.card";

/// Maximum size of a card in the file, in bytes.
pub const CARD_LIMIT_BYTES: usize = 16 << 10;

/// Everything that determines a file's values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Card {
    /// Version of kvant that wrote the file.
    pub kvant: String,
    /// The method.
    pub method: String,
    /// The requested file type, or `mixed`.
    pub format: String,
    /// True if the per-tensor rules were disabled.
    pub pure: bool,
    /// The seed.
    pub seed: u64,
    /// blake3 over the input's tensors (names, shapes, formats, bytes).
    pub input_blake3: String,
    /// blake3 over the output's tensors.
    pub output_blake3: String,
    /// The number of tensors of each format.
    pub formats: BTreeMap<String, usize>,
    /// The calibration text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationCard>,
    /// Settings of the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// The values of `--set`.
    pub overrides: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The calibration text of a method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CalibrationCard {
    /// Files, or `builtin`.
    pub source: String,
    /// blake3 over the token ids.
    pub tokens_blake3: String,
    /// The number of contexts, without self-generated contexts.
    pub contexts: usize,
    /// Tokens of a context.
    pub context_tokens: usize,
    /// The number of self-generated contexts.
    #[serde(default)]
    pub own_contexts: usize,
}

impl Card {
    /// Returns JSON of at most 16 KiB. If not all warnings fit, the last warning gives the number of dropped warnings.
    pub fn to_json(&self) -> String {
        let mut card = self.clone();
        let mut dropped = 0;
        loop {
            let json = serde_json::to_string(&card).unwrap_or_default();
            if json.len() <= CARD_LIMIT_BYTES || card.warnings.is_empty() {
                return json;
            }
            if dropped > 0 {
                card.warnings.pop();
            }
            card.warnings.pop();
            dropped = self.warnings.len() - card.warnings.len();
            card.warnings.push(format!("{dropped} more warnings; see OUT.card.json"));
        }
    }
}

/// Measurements of the run that made a file.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HostCard {
    /// The card in the file, with all warnings.
    pub card: Card,
    /// Wall time.
    pub seconds: f64,
    /// Threads used.
    pub threads: usize,
    /// Peak resident memory.
    pub peak_rss_bytes: u64,
    /// Operating system and processor architecture.
    pub host: String,
    /// Time at which the run finished, in seconds since 1970.
    pub finished_unix_seconds: u64,
}
