//! Methods that choose a tensor's stored values, and their registry.
//!
//! A solver hands over the final bytes, never rounded floats that somebody must round again. What it may look at is
//! a [`Layer`]; what it has to be given, it says ([`Solver::need`]). Invariant: the bytes depend on the layer, the
//! format and the settings alone, not on threads.

mod choice;
mod correction;
mod coupling;
mod descent;
mod factor;
mod gptq;
mod hessian;
mod importance;
mod order;
mod round_to_nearest;
mod scales;
mod separate;
mod sorted;

pub use correction::ROWS as CORRECTED_ROWS;
pub use hessian::{Hessian, SLAB};
pub use importance::{ImportanceWeighted, flags as importance_flags};
pub use round_to_nearest::RoundToNearest;

use crate::sensitivity::Sensitivity;
use crate::{Error, Statistics};
use kvant_core::{Bytes, FormatRef, Tensor};
use kvant_kernels::Backend;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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

/// Every method, the simplest first.
pub static METHODS: &[&dyn Solver] = &[
    &RoundToNearest,
    &ImportanceWeighted,
    &Hessian { name: "gptq", descent: false, correction: false, coupling: false, choose: false },
    &Hessian { name: "descent", descent: true, correction: false, coupling: false, choose: false },
    &Hessian { name: "corrected", descent: true, correction: true, coupling: false, choose: false },
    &Hessian { name: "coupled", descent: true, correction: true, coupling: true, choose: false },
    &Hessian { name: "auto", descent: true, correction: true, coupling: true, choose: true },
];

/// The method of this name.
pub fn method(name: &str) -> Option<&'static dyn Solver> {
    METHODS.iter().copied().find(|m| m.name() == name)
}

/// Elements that are decoded at once: few enough that a piece stays in a core's own cache from its decoding to its
/// comparison.
const PIECE_ELEMENTS: usize = 1 << 14;

struct Piece {
    squared_error: f64,
    squared_sum: f64,
    not_finite: Option<(usize, f32)>,
    overflow: Option<(usize, f32)>,
}

/// Fills bytes from values: first row, values of whole rows, their bytes.
type Encode<'a> = &'a (dyn Fn(usize, &[f32], &mut [u8]) + Sync);

/// Fills a tensor's bytes piece by piece, in parallel; then compares.
fn by_pieces(layer: &Layer, format: FormatRef, encode: Encode) -> Result<Solved, Error> {
    let tensor = layer.weight;
    let shape_error = |source| Error::Shape { tensor: layer.name.to_owned(), source };
    let shape = *tensor.shape();
    let mut bytes = vec![0u8; format.tensor_bytes(&shape).map_err(shape_error)?];
    let columns = shape.columns();
    let rows_a_piece = (PIECE_ELEMENTS / columns.max(1)).max(1);
    let row_bytes = columns / format.block().elements * format.block().bytes;
    let pieces: Vec<Piece> = if bytes.is_empty() {
        Vec::new()
    } else {
        bytes
            .par_chunks_mut(rows_a_piece * row_bytes)
            .enumerate()
            .map_init(
                || (Vec::new(), Vec::new()),
                |(before, after), (index, out)| {
                    let (start, rows) = (index * rows_a_piece, out.len() / row_bytes);
                    before.resize(rows * columns, 0.0f32);
                    after.resize(rows * columns, 0.0f32);
                    tensor.format().decode(tensor.rows(start, rows), before);
                    encode(start, before, out);
                    format.decode(out, after);
                    compare(format, columns, before, after, start * columns)
                },
            )
            .collect()
    };
    Ok(Solved {
        tensor: Tensor::new(shape, format, Bytes::from(bytes)).map_err(shape_error)?,
        squared_error: pieces.iter().map(|p| p.squared_error).sum(),
        squared_sum: pieces.iter().map(|p| p.squared_sum).sum(),
        not_finite: pieces.iter().find_map(|p| p.not_finite),
        overflow: pieces.iter().find_map(|p| p.overflow),
        flags: Vec::new(),
        chosen: None,
    })
}

/// What values of whole rows have lost; `first` is the place of the first one in its tensor.
fn compare(format: FormatRef, columns: usize, before: &[f32], after: &[f32], first: usize) -> Piece {
    let (squared_error, squared_sum) = pulp::Arch::new().dispatch(Errors { before, after });
    // A finite sum has nothing but finite numbers in it: squares of f32 don't overflow f64.
    let broken = |sum: f64, x: &[f32]| if sum.is_finite() { None } else { first_not_finite(x) };
    let named = |i: usize| (first + i, before[i]);
    let not_finite = broken(squared_sum, before).map(named);
    let reach = format.grid().map_or(f32::INFINITY, |grid| grid.reach());
    let beyond = squared_sum > f64::from(reach) * f64::from(reach);
    let bad = match (broken(squared_error, after), before.iter().position(|x| beyond && x.abs() > reach)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let overflow = bad.filter(|_| not_finite.is_none()).map(|bad| {
        let row = bad / columns * columns..(bad / columns + 1) * columns;
        let (before, after) = (&before[row.clone()], &after[row.clone()]);
        named(row.start + largest_overflow(format.block().elements, reach, before, after))
    });
    Piece { squared_error, squared_sum, not_finite, overflow }
}

/// The largest magnitude in the blocks of a row that could not be stored. Methods that make up for errors carry one
/// block's infinity into others, so the first such block need not be the culprit.
fn largest_overflow(elements: usize, reach: f32, before: &[f32], after: &[f32]) -> usize {
    let lost = |at: usize| {
        let (before, after) = (&before[at..][..elements], &after[at..][..elements]);
        after.iter().any(|x| !x.is_finite()) || before.iter().any(|x| x.abs() > reach)
    };
    let blocks = (0..before.len()).step_by(elements).filter(|&at| lost(at));
    let mut largest = 0;
    let mut magnitude = -1.0;
    for at in blocks.flat_map(|at| at..at + elements) {
        if before[at].abs() > magnitude {
            (largest, magnitude) = (at, before[at].abs());
        }
    }
    largest
}

/// Sums of squared errors and of squares, compiled for each instruction set; their order is the same.
struct Errors<'a> {
    before: &'a [f32],
    after: &'a [f32],
}

/// Errors that are taken at once.
const ERRORS: usize = 256;

impl pulp::NullaryFnOnce for Errors<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn call(self) -> (f64, f64) {
        let (mut errors, mut squares) = (0.0, 0.0);
        for (before, after) in self.before.chunks(ERRORS).zip(self.after.chunks(ERRORS)) {
            // In an array first: errors made one by one inside the sum are not vectorized.
            let mut error = [0.0f32; ERRORS];
            for ((error, x), y) in error.iter_mut().zip(before).zip(after) {
                *error = x - y;
            }
            errors += sum_of_squares(&error[..before.len()]);
            squares += sum_of_squares(before);
        }
        (errors, squares)
    }
}

/// Summed in eight parts, element by element in turn: always the same order, and none waits for another.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    const SUMS: usize = 8;
    let mut sums = [0.0f64; SUMS];
    let (chunks, rest) = x.as_chunks::<SUMS>();
    let square = |x: f32| f64::from(x) * f64::from(x);
    for x in chunks {
        for i in 0..SUMS {
            sums[i] += square(x[i]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += square(x);
    }
    sums.iter().sum()
}

/// Where the first number stands that is NaN or infinite.
pub(crate) fn first_not_finite(x: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    // The whole first, without an early end, which the compiler makes vector instructions.
    let any = x.iter().fold(false, |any, x| any | (x.to_bits() & EXPONENT == EXPONENT));
    if any { x.iter().position(|x| !x.is_finite()) } else { None }
}
