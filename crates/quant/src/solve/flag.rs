//! Special properties of a tensor in a quantized file.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A property of a tensor that a user may want to know. In JSON, a flag is its name in lower case, with words joined by
/// hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// The tensor's rows do not consist of whole blocks of the wanted format, so the tensor has another format.
    Fallback,
    /// The tensor keeps its format and its bytes.
    Kept,
    /// The report describes a dry run: no tensor was written.
    Planned,
    /// All weights of the tensor are zero.
    Zero,
    /// The tensor was encoded without calibration data.
    Uncalibrated,
    /// The errors of earlier linear layers (maps) were not compensated, because the Gram matrix could not be factored.
    Uncorrected,
    /// The tensor's rows were solved without row feedback, because the sums of gradients could not be factored.
    Uncoupled,
    /// Some input columns were zero in all of the calibration text.
    DeadColumns,
    /// Some experts were used by too few tokens of the calibration text.
    FewTokens,
    /// The tensor's weights were already on the format's lattice.
    Lattice,
    /// The norm of the error is at least half the norm of the weights.
    LargeError,
    /// All weights became zero.
    AllZero,
}

impl Flag {
    /// Returns the flag's name in JSON.
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
            Self::FewTokens => "few-tokens",
            Self::Lattice => "lattice",
            Self::LargeError => "large-error",
            Self::AllZero => "all-zero",
        }
    }

    /// Returns a sentence for the user if the flag is a warning, and `None` otherwise.
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
            Self::FewTokens => Some(
                "few tokens of the calibration text use some of the experts, which were solved with the inputs of all \
                 tokens; raise --calib-tokens",
            ),
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
