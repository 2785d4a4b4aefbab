//! What a method of quantization is, what it is given, and what it gives back.
//!
//! A solver hands over the final bytes, never rounded floats that somebody must round again. It looks at a [`Layer`]
//! and says what it has to be given ([`Solver::need`]). Invariant: the bytes depend on the layer, the format and the
//! settings alone, not on threads.

use crate::Error;
use crate::gather::{Sensitivity, Statistics};
use kvant_core::{FormatRef, Tensor};
use kvant_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A tensor in its new format, and what it lost.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The final bytes.
    pub tensor: Tensor,
    /// Sum of squared errors, f64 in fixed order.
    pub squared_error: f64,
    /// Sum of squares of the original.
    pub squared_sum: f64,
    /// First element that was not finite before, and its value.
    pub not_finite: Option<(usize, f32)>,
    /// The element that the format cannot hold, and its value before: the largest magnitude of a block that came back
    /// as no finite numbers, or that lies beyond [`kvant_core::Grid::reach`].
    pub overflow: Option<(usize, f32)>,
    /// What is special.
    pub flags: Vec<&'static str>,
    /// What the method chose, where it chose.
    pub chosen: Option<Settings>,
}

/// An error of half the tensor's own size, squared: more than any format loses of weights that it can hold.
const LARGE_ERROR: f64 = 0.25;

impl Solved {
    /// The flag of a tensor whose error is as large as the tensor itself: `all-zero` where nothing is left of it,
    /// `large-error` where the error is at least half of it.
    pub fn loss_flag(&self) -> Option<&'static str> {
        match self.squared_error {
            _ if self.squared_sum == 0.0 => None,
            error if error < LARGE_ERROR * self.squared_sum => None,
            _ if is_zero(&self.tensor) => Some("all-zero"),
            _ => Some("large-error"),
        }
    }

    /// Refuses numbers that are not finite, before or after; `path` is the checkpoint's, `tensor` the tensor's name.
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

/// Whether all numbers of a tensor are zero; one that is not ends the search.
pub fn is_zero(tensor: &Tensor) -> bool {
    let mut row = vec![0.0; tensor.shape().columns()];
    let rows = tensor.shape().elements() / row.len().max(1);
    (0..rows).all(|index| {
        tensor.format().decode(tensor.rows(index, 1), &mut row);
        row.iter().all(|&x| x == 0.0)
    })
}

/// What a method has to be given besides the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Mean squares of the input's columns.
    Importance,
    /// Products of the input's columns, of both networks.
    Hessian,
}

/// What a user may turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Settings {
    /// What is added to the Gram matrix's diagonal, as a share of its mean, before anything is rounded under it.
    pub damping: f32,
    /// The same for the correction of the target: the larger, the less of the mismatch is corrected; none where
    /// nothing is.
    pub correction_damping: Option<f32>,
    /// Most sweeps of coordinate descent.
    pub sweeps: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { damping: 0.3, correction_damping: Some(1.0), sweeps: 4 }
    }
}

/// One linear map and what is known of its input.
pub struct Layer<'a> {
    /// GGUF name of the weight.
    pub name: &'a str,
    /// The weight, `rows × columns`.
    pub weight: &'a Tensor,
    /// Mean square of each column of the input.
    pub importance: Option<&'a [f32]>,
    /// Sums over the input.
    pub statistics: Option<&'a Statistics>,
    /// How much the answer minds errors at the result.
    pub sensitivity: Option<&'a Sensitivity>,
    /// What a user turned.
    pub settings: Settings,
    /// What products run on.
    pub backend: &'a Backend,
}

impl<'a> Layer<'a> {
    /// A map of which nothing but its weights is known.
    pub fn uncalibrated(name: &'a str, weight: &'a Tensor, backend: &'a Backend) -> Self {
        let settings = Settings::default();
        Self { name, weight, importance: None, statistics: None, sensitivity: None, settings, backend }
    }
}

/// A method of quantization.
pub trait Solver: Sync {
    /// What `--method` takes.
    fn name(&self) -> &'static str;

    /// What has to be known of a map's input.
    fn need(&self) -> Need;

    /// Whether it looks at what earlier maps have lost.
    fn corrects(&self) -> bool {
        false
    }

    /// Whether it looks at how much the answer minds errors at a map's result.
    fn couples(&self) -> bool {
        false
    }

    /// Whether it chooses by text that is kept out of the sums at first.
    fn chooses(&self) -> bool {
        false
    }

    /// The settings to solve `layer` with, judged by `selection`: sums over contexts that the layer's don't have.
    fn choose(&self, layer: &Layer, _format: FormatRef, _selection: &Statistics) -> Settings {
        layer.settings
    }

    /// The layer in `format` where that takes no looking at activations: weights that lie on the format's lattice
    /// already.
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
