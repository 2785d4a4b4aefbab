//! The recipe: all settings of a quantization.

use super::file_type::{FileType, Override};
use crate::gather::{Calibration, Importance};
use crate::solve::{Settings, Solver};
use kvant_core::FormatRef;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The formats of quantized tensors, by name.
pub type Formats = BTreeMap<String, FormatRef>;

/// All settings of a quantization, as plain data.
#[derive(Clone)]
pub struct Recipe {
    /// The mix of formats.
    pub file_type: &'static FileType,
    /// The method that chooses the quantized values.
    pub method: &'static dyn Solver,
    /// True disables the mix's per-tensor rules.
    pub pure: bool,
    /// Formats of some tensors that were chosen for a budget. These formats take precedence over the mix's rules.
    pub formats: Option<Formats>,
    /// Formats that the user sets for some tensors.
    pub overrides: Vec<Override>,
    /// True allows an input that is already quantized.
    pub allow_requantize: bool,
    /// The seed of self-generated text and of the random labels for gradients. The card records the seed for every
    /// method.
    pub seed: u64,
    /// Settings of the method.
    pub settings: Settings,
    /// Calibration text, for methods that need it.
    pub calibration: Option<Calibration>,
    /// The number of self-generated contexts in addition to the text, for methods that walk through the network.
    pub self_generated: usize,
    /// Importance of input columns, for methods that weight rounding errors by importance. If `None`, these methods
    /// gather importance on the calibration text.
    pub importance: Option<Importance>,
    /// The work folder for unfinished work.
    pub work: PathBuf,
    /// True deletes unfinished work and starts over.
    pub fresh: bool,
    /// Notes for the user on how the recipe was chosen. The report shows these notes as warnings.
    pub notes: Vec<String>,
}

impl Recipe {
    /// Returns a recipe without calibration, without overrides and with default settings.
    pub fn plain(file_type: &'static FileType, method: &'static dyn Solver) -> Self {
        Self {
            file_type,
            method,
            pure: false,
            formats: None,
            overrides: Vec::new(),
            allow_requantize: false,
            seed: 0,
            settings: Settings::default(),
            calibration: None,
            self_generated: 0,
            importance: None,
            work: PathBuf::new(),
            fresh: false,
            notes: Vec::new(),
        }
    }
}

impl Recipe {
    /// Returns the name of the mix of formats: the file type's name, or `mixed` if formats were chosen for a budget.
    pub fn format_name(&self) -> &'static str {
        if self.formats.is_some() { "mixed" } else { self.file_type.name }
    }
}
