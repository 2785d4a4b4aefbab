//! The interface of a quantization method: its input, the data that it needs, and its result.
//!
//! A solver takes a [`Layer`] and declares the data that it needs ([`Solver::need`]). It returns the final bytes. It
//! never returns rounded floats, which the caller would have to round again. Invariant: the bytes depend only on the
//! layer, the format and the settings. They do not depend on the number of threads.

use super::flag::Flag;
use crate::Error;
use crate::gather::{Sensitivity, Statistics};
use kvant_core::{Encoder, FormatRef, Tensor};
use kvant_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A tensor in its new format, and its error against the original tensor.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The tensor with its final bytes.
    pub tensor: Tensor,
    /// The sum of squared errors, in f64 and in a fixed order.
    pub squared_error: f64,
    /// The sum of squares of the original values.
    pub squared_sum: f64,
    /// The first element of the original that is NaN or infinite: its index and its value.
    pub not_finite: Option<(usize, f32)>,
    /// An element that the format cannot hold: its index and its original value. It comes from the first row that
    /// overflowed. It has the largest magnitude in those blocks of that row that decode to a value that is not finite,
    /// or that contain an original value beyond [`kvant_core::Grid::reach`].
    pub overflow: Option<(usize, f32)>,
    /// Special cases, for the report.
    pub flags: Vec<Flag>,
    /// The settings that the method chose, if it chose any.
    pub chosen: Option<Settings>,
}

/// Squared relative error that counts as large. It means that the norm of the error is half the norm of the tensor. If
/// a format can hold the weights, its error is smaller.
const LARGE_ERROR: f64 = 0.25;

impl Solved {
    /// Returns a flag if the norm of the error is at least half the norm of the tensor, and `None` otherwise. The flag
    /// is `all-zero` if all stored values are zero, `large-error` otherwise.
    pub fn loss_flag(&self) -> Option<Flag> {
        match self.squared_error {
            _ if self.squared_sum == 0.0 => None,
            error if error < LARGE_ERROR * self.squared_sum => None,
            _ if is_zero(&self.tensor) => Some(Flag::AllZero),
            _ => Some(Flag::LargeError),
        }
    }

    /// Checks that all values are finite, before and after encoding. `path` is the path of the checkpoint, `tensor` the
    /// name of the tensor.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the element `not_finite`, or [`Error::Overflow`] with the element `overflow`.
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

/// Returns true if all values of a tensor are zero. The search ends at the first row with another value.
pub fn is_zero(tensor: &Tensor) -> bool {
    let mut row = vec![0.0; tensor.shape().columns()];
    let rows = tensor.shape().elements() / row.len().max(1);
    (0..rows).all(|index| {
        tensor.format().decode(tensor.rows(index, 1), &mut row);
        row.iter().all(|&x| x == 0.0)
    })
}

/// The data that a method needs in addition to the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The method needs no data.
    Nothing,
    /// The mean square of each column of the input.
    Importance,
    /// The [`Statistics`] of the input: its Gram matrix, and sums over the difference of the float network from the
    /// quantized one.
    Hessian,
}

/// The settings that a user can change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Settings {
    /// Damping of the rounding. It is added to the diagonal of the Gram matrix, as a share of the diagonal's mean.
    pub damping: f32,
    /// Damping of the correction of the target, as a share of the mean of the Gram matrix's diagonal. A larger damping
    /// corrects a smaller part of the errors of earlier layers. Without a value, nothing is corrected.
    pub correction_damping: Option<f32>,
    /// Maximum number of sweeps of coordinate descent. One sweep visits every group of codes one time.
    pub sweeps: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { damping: 0.3, correction_damping: Some(1.0), sweeps: 4 }
    }
}

/// One linear layer (map) and its calibration data.
pub struct Layer<'a> {
    /// GGUF name of the weight.
    pub name: &'a str,
    /// The weight, rows × columns.
    pub weight: &'a Tensor,
    /// The mean square of each column of the input. For the maps of experts, one list for each expert.
    pub importance: Option<&'a [f32]>,
    /// The sums over the calibration inputs.
    pub statistics: Option<&'a Statistics>,
    /// The sensitivity of the network's output to errors at the map's result.
    pub sensitivity: Option<&'a Sensitivity>,
    /// The settings of the method.
    pub settings: Settings,
    /// The backend that computes the matrix products.
    pub backend: &'a Backend,
}

impl<'a> Layer<'a> {
    /// Creates a layer without calibration data, with default settings.
    pub fn uncalibrated(name: &'a str, weight: &'a Tensor, backend: &'a Backend) -> Self {
        let settings = Settings::default();
        Self { name, weight, importance: None, statistics: None, sensitivity: None, settings, backend }
    }

    /// Returns the encoder of a format.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the format has none.
    pub fn encoder(&self, format: FormatRef) -> Result<&'static dyn Encoder, Error> {
        let refused = || Error::ReadOnly { tensor: self.name.to_owned(), format: format.name() };
        format.encoder().ok_or_else(refused)
    }
}

/// A quantization method.
pub trait Solver: Sync {
    /// Returns the name of the method, as `--method` takes it.
    fn name(&self) -> &'static str;

    /// Returns the data that the method needs.
    fn need(&self) -> Need;

    /// Returns true if the method compensates for the errors of earlier maps.
    fn corrects(&self) -> bool {
        false
    }

    /// Returns true if the method uses [`Layer::sensitivity`] (row feedback).
    fn couples(&self) -> bool {
        false
    }

    /// Returns true if the method chooses its settings on the selection text: the part of the calibration text that is
    /// held out to choose settings.
    fn chooses(&self) -> bool {
        false
    }

    /// Returns the settings for `layer`. `selection` has the sums over the selection text, which the sums in `layer` do
    /// not contain. The method compares settings by their loss on `selection`. The default returns the settings in
    /// `layer`.
    fn choose(&self, layer: &Layer, _format: FormatRef, _selection: &Statistics) -> Settings {
        layer.settings
    }

    /// Returns the layer in `format` if its weights are already on the format's lattice. This needs no calibration
    /// data. Returns `None` for all other layers, and in the default implementation.
    ///
    /// # Errors
    /// The errors of [`Solver::solve`].
    fn carry(&self, _layer: &Layer, _format: FormatRef) -> Result<Option<Solved>, Error> {
        Ok(None)
    }

    /// Chooses the stored values of `layer` in `format`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the format cannot hold the weight's shape, [`Error::ReadOnly`] if it has no encoder.
    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error>;
}
