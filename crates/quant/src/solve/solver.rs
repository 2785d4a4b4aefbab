//! The interface of a quantization method: its input, the data that it needs, and its result.
//!
//! A solver takes a [`Layer`] and declares the data that it needs ([`Solver::need`]). It returns the final bytes, never
//! rounded floats that the caller would have to round again. Invariant: the bytes depend only on the layer, the format
//! and the settings, not on the number of threads.

use super::flag::Flag;
use crate::Error;
use crate::gather::{Sensitivity, Statistics};
use kvant_core::{FormatRef, Tensor};
use kvant_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A tensor in its new format, and its error.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The final bytes.
    pub tensor: Tensor,
    /// Sum of squared errors, in f64 and in a fixed order.
    pub squared_error: f64,
    /// Sum of squares of the original.
    pub squared_sum: f64,
    /// First element that was not finite before, and its value.
    pub not_finite: Option<(usize, f32)>,
    /// The element that the format cannot hold, and its value before. It has the largest magnitude of the blocks that
    /// decode to values that are not finite, or that contain a value beyond [`kvant_core::Grid::reach`].
    pub overflow: Option<(usize, f32)>,
    /// Special cases, for the report.
    pub flags: Vec<Flag>,
    /// The settings that the method chose, if it chose any.
    pub chosen: Option<Settings>,
}

/// Squared relative error that counts as large: the norm of the error is half the norm of the tensor. Formats have
/// smaller errors for all weights that they can hold.
const LARGE_ERROR: f64 = 0.25;

impl Solved {
    /// Returns the flag of a tensor whose error is at least half as large as the tensor: `all-zero` if all its stored
    /// values are zero, `large-error` otherwise.
    pub fn loss_flag(&self) -> Option<Flag> {
        match self.squared_error {
            _ if self.squared_sum == 0.0 => None,
            error if error < LARGE_ERROR * self.squared_sum => None,
            _ if is_zero(&self.tensor) => Some(Flag::AllZero),
            _ => Some(Flag::LargeError),
        }
    }

    /// Checks that all values are finite, before and after. `path` is the path of the checkpoint, `tensor` the name of
    /// the tensor.
    ///
    /// # Errors
    /// [`Error::NotFinite`] or [`Error::Overflow`], with the first such element.
    pub fn check_finite(&self, path: &Path, tensor: &str) -> Result<(), Error> {
        let (path, tensor) = (path.to_owned(), tensor.to_owned());
        match (self.not_finite, self.overflow) {
            (Some((element, value)), _) => Err(Error::NotFinite { path, tensor, element, value }),
            (None, Some((element, value))) => {
                let format = self.tensor.format().name();
                Err(Error::Overflow { path, tensor, element, value, format })
            }
            (None, None) => Ok(()),
        }
    }
}

/// Returns whether all values of a tensor are zero. The search ends at the first row with another value.
pub fn is_zero(tensor: &Tensor) -> bool {
    let mut row = vec![0.0; tensor.shape().columns()];
    let rows = tensor.shape().elements() / row.len().max(1);
    (0..rows).all(|index| {
        tensor.format().decode(tensor.rows(index, 1), &mut row);
        row.iter().all(|&x| x == 0.0)
    })
}

/// The data that a method needs besides the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// No data.
    Nothing,
    /// The mean squares of the input's columns.
    Importance,
    /// The sums of products of the input's columns, from the float network and the quantized one.
    Hessian,
}

/// The settings that a user can change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Settings {
    /// Damping of the rounding: it is added to the Gram matrix's diagonal, as a share of the diagonal's mean.
    pub damping: f32,
    /// Damping of the correction of the target: a larger damping corrects less of the mismatch. Without a value,
    /// nothing is corrected.
    pub correction_damping: Option<f32>,
    /// Maximum number of sweeps of coordinate descent.
    pub sweeps: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { damping: 0.3, correction_damping: Some(1.0), sweeps: 4 }
    }
}

/// One linear map and its calibration data.
pub struct Layer<'a> {
    /// GGUF name of the weight.
    pub name: &'a str,
    /// The weight, `rows × columns`.
    pub weight: &'a Tensor,
    /// The mean square of each column of the input.
    pub importance: Option<&'a [f32]>,
    /// The sums over the calibration inputs.
    pub statistics: Option<&'a Statistics>,
    /// The sensitivity of the network's output to errors at the map's result.
    pub sensitivity: Option<&'a Sensitivity>,
    /// The settings.
    pub settings: Settings,
    /// The backend that computes the matrix products.
    pub backend: &'a Backend,
}

impl<'a> Layer<'a> {
    /// Makes a layer without calibration data, with default settings.
    pub fn uncalibrated(name: &'a str, weight: &'a Tensor, backend: &'a Backend) -> Self {
        let settings = Settings::default();
        Self { name, weight, importance: None, statistics: None, sensitivity: None, settings, backend }
    }
}

/// A quantization method.
pub trait Solver: Sync {
    /// Returns the name that `--method` takes.
    fn name(&self) -> &'static str;

    /// Returns the data that the method needs.
    fn need(&self) -> Need;

    /// Returns whether the method compensates for the errors of earlier maps.
    fn corrects(&self) -> bool {
        false
    }

    /// Returns whether the method uses [`Layer::sensitivity`] (row feedback).
    fn couples(&self) -> bool {
        false
    }

    /// Returns whether the method chooses its settings on selection text, which the first sums do not contain.
    fn chooses(&self) -> bool {
        false
    }

    /// Returns the settings to solve `layer` with. `selection` holds sums over contexts that are not in the layer's
    /// sums; the method compares settings with them.
    fn choose(&self, layer: &Layer, _format: FormatRef, _selection: &Statistics) -> Settings {
        layer.settings
    }

    /// Returns the layer in `format` if this needs no calibration data, because its weights already lie on the format's
    /// lattice.
    ///
    /// # Errors
    /// As [`Solver::solve`].
    fn carry(&self, _layer: &Layer, _format: FormatRef) -> Result<Option<Solved>, Error> {
        Ok(None)
    }

    /// Chooses the stored values of `layer` in `format`.
    ///
    /// # Errors
    /// A shape that the format cannot hold.
    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error>;
}
