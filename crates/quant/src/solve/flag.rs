//! What is special about a tensor of a quantized file.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A property of a tensor that a user may want to know. In JSON it is its name in lower case, words joined by hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// Its rows are no whole blocks of the wanted format.
    Fallback,
    /// It keeps its format.
    Kept,
    /// Nothing was written yet: a dry run.
    Planned,
    /// All of its weights are zero.
    Zero,
    /// It was encoded without calibration data.
    Uncalibrated,
    /// Errors of earlier maps were not compensated, because the sums could not be factored.
    Uncorrected,
    /// Its rows were solved one by one, because the sums of gradients could not be factored.
    Uncoupled,
    /// Some input columns were zero in all of the calibration text.
    DeadColumns,
    /// Its weights lay on the format's lattice already.
    Lattice,
    /// The error is at least half as large as the weights.
    LargeError,
    /// All weights became zero.
    AllZero,
}

impl Flag {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Kept => "kept",
            Self::Planned => "planned",
            Self::Zero => "zero",
            Self::Uncalibrated => "uncalibrated",
            Self::Uncorrected => "uncorrected",
            Self::Uncoupled => "uncoupled",
            Self::DeadColumns => "dead-columns",
            Self::Lattice => "lattice",
            Self::LargeError => "large-error",
            Self::AllZero => "all-zero",
        }
    }

    /// A sentence for a user, where the flag is a warning.
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::Zero => Some("all weights are zero"),
            Self::Uncalibrated => Some("no usable calibration data; encoded without it"),
            Self::Uncorrected => Some("earlier losses could not be made up for; the sums have no factor"),
            Self::Uncoupled => Some("rows were solved one by one; the sums of gradients have no factor"),
            Self::LargeError => {
                Some("the error is at least half as large as the weights; give it another format with --set")
            }
            Self::AllZero => Some(
                "all weights became zero; they are too small for the format, give it another one with --set",
            ),
            Self::DeadColumns => Some("some input columns were zero in all of the calibration text"),
            Self::Fallback | Self::Kept | Self::Planned | Self::Lattice => None,
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_has_one_name_in_json_and_in_text() {
        for flag in [Flag::Fallback, Flag::DeadColumns, Flag::AllZero, Flag::LargeError, Flag::Uncoupled] {
            assert_eq!(serde_json::to_string(&flag).unwrap(), format!("\"{flag}\""));
        }
    }
}
