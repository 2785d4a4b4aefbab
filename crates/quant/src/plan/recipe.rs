//! What to do to a model.

use super::file_type::{FileType, Override};
use crate::gather::{Calibration, Importance};
use crate::solve::{Settings, Solver};
use kvant_core::FormatRef;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The format of every tensor that is quantized, by name.
pub type Formats = BTreeMap<String, FormatRef>;

/// What to do to a model: plain data.
#[derive(Clone)]
pub struct Recipe {
    /// The mix of formats.
    pub file_type: &'static FileType,
    /// How values are chosen.
    pub method: &'static dyn Solver,
    /// Whether the mix's per-tensor rules are off.
    pub pure: bool,
    /// Formats of some tensors, found for a budget: they go before the mix's rules.
    pub formats: Option<Formats>,
    /// The user's word on some tensors.
    pub overrides: Vec<Override>,
    /// Whether an input that is already quantized is taken.
    pub allow_requantize: bool,
    /// What the network's own text and the labels of its gradients are drawn by; recorded for every method.
    pub seed: u64,
    /// What a user turned on the method.
    pub settings: Settings,
    /// Text for methods that need it.
    pub calibration: Option<Calibration>,
    /// Contexts that the network writes itself, beside the text, for methods that walk through it.
    pub self_generated: usize,
    /// For methods that weigh by it; gathered on the calibration text where it is not given.
    pub importance: Option<Importance>,
    /// Where unfinished work is kept.
    pub work: PathBuf,
    /// Whether unfinished work is forgotten.
    pub fresh: bool,
    /// What a user should know of how the recipe came about; it stands among the warnings.
    pub notes: Vec<String>,
}

impl Recipe {
    /// A recipe without calibration, overrides or anything else out of the ordinary.
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
    /// What the mix of formats is called: the file type's name, or `mixed` where formats were found for a budget.
    pub fn format_name(&self) -> &'static str {
        if self.formats.is_some() { "mixed" } else { self.file_type.name }
    }
}
