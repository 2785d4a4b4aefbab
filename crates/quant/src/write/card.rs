//! The card: what was done to a model, kept with it.
//!
//! [`Card`] is determined by input, recipe and seed alone and stands in the file (`kvant.card`, JSON, at most
//! 16 KiB); [`HostCard`] is what was measured on this machine and stands beside it in `OUT.card.json`.

use crate::solve::Settings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The metadata key under which a GGUF carries its card.
pub const CARD_KEY: &str = "kvant.card";

/// Bytes that a card may take in the file.
pub const CARD_LIMIT_BYTES: usize = 16 << 10;

/// What determined a file's values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Card {
    /// Version of kvant that wrote it.
    pub kvant: String,
    /// The method.
    pub method: String,
    /// The file type asked for.
    pub format: String,
    /// Whether the per-tensor rules were off.
    pub pure: bool,
    /// The seed.
    pub seed: u64,
    /// blake3 over the input's tensors (names, shapes, formats, bytes).
    pub input_blake3: String,
    /// blake3 over the output's tensors.
    pub output_blake3: String,
    /// How many tensors each format has.
    pub formats: BTreeMap<String, usize>,
    /// The text that statistics were gathered on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationCard>,
    /// What was turned on the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// `--set` as given.
    pub overrides: Vec<String>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Which text a method has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CalibrationCard {
    /// Files, or `builtin`.
    pub source: String,
    /// blake3 over the token ids.
    pub tokens_blake3: String,
    /// How many contexts.
    pub contexts: usize,
    /// Tokens of each.
    pub context_tokens: usize,
    /// How many contexts the network has written itself, beside these.
    #[serde(default)]
    pub own_contexts: usize,
}

impl Card {
    /// JSON of at most 16 KiB; warnings that don't fit are counted in the last one.
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

/// What was measured while a file was made.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HostCard {
    /// The part that the file itself carries, warnings complete.
    pub card: Card,
    /// Wall time.
    pub seconds: f64,
    /// Threads used.
    pub threads: usize,
    /// Peak resident memory.
    pub peak_rss_bytes: u64,
    /// Operating system and processor architecture.
    pub host: String,
    /// Seconds since 1970 when it was finished.
    pub finished_unix_seconds: u64,
}
