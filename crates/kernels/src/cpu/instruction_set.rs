//! The kernels of one instruction set. Each instruction set is one row of the table in `instruction_sets.rs`.
//!
//! Kernels are compiled for features that a processor may lack, so a call of a kernel is unsafe. A [`Detected`] proves
//! that the processor has these features, because only the detection creates a `Detected`. Only the methods of
//! `Detected` call the kernels.
//!
//! In this file a panel is 8 or 16 rows of a matrix of integer codes, stored side by side. A chunk is 32 columns of a
//! panel. Panels of floats have 32 rows.

use super::codes::activations::{Activations, RowCodes};
use super::codes::matrix::{CodeMatrix, Sums};
use super::codes::outliers::{Outlier, OutliersOfRows};
use super::generic::attention_kernel::QueryRows;
use super::generic::float_tile::{FloatType, Products};
use super::generic::recurrent::{TILE, TileToken};
use crate::shared::Shared;
use crate::view::View;
use crate::{ClampedSwiglu, Isa, KvFormat};
use std::ops::Range;

/// All kernels of one instruction set.
pub(crate) struct InstructionSet {
    pub isa: Isa,
    /// Returns true if this processor has the instruction set.
    pub is_available: fn() -> bool,
    /// The loops over floats.
    pub loops: Loops,
    /// The products with integer codes.
    pub codes: CodeKernels,
    /// The instructions that measure the peak throughput of integer products.
    pub integer_chain: Chain,
    /// The instructions that measure the peak throughput of float products.
    pub float_chain: Chain,
}

/// A loop of arithmetic instructions without memory access. It measures the peak throughput.
pub(crate) struct Chain {
    /// Number of multiply-adds per step, counted over all lanes of all vectors.
    pub multiply_adds: usize,
    /// Runs the loop for the given number of steps.
    pub run: unsafe fn(usize),
}

/// Products of a [`CodeMatrix`] with activations that are rounded to integer codes.
pub(crate) struct CodeKernels {
    /// Number of rows of a panel: 8 or 16.
    pub panel_rows: usize,
    /// Kernels for many rows of activations. [`ManyRows::row_count`] determines how many rows a kernel multiplies. The
    /// next kernel multiplies the remaining rows. `few_rows` multiplies the rows that remain after the last kernel.
    pub many_rows: &'static [ManyRows],
    /// Multiplies one panel with some rows of activations. Arguments: the matrix, the index of the panel, the
    /// activations, the index of the first row of activations, and the sums. The number of rows of activations is the
    /// number of entries of the sums.
    pub few_rows: unsafe fn(&CodeMatrix, usize, &Activations, usize, &mut Sums),
    /// Adds the products of outliers (activations that are not rounded) with some panels to the results. Arguments: the
    /// matrix, the range of panels, the outliers, and all results.
    pub add_outliers: unsafe fn(&CodeMatrix, Range<usize>, &OutliersOfRows, &Shared<f32>),
}

/// A kernel for groups of rows of activations. [`ManyRows::pack`] packs a group before the kernel multiplies it.
pub(crate) struct ManyRows {
    /// Number of rows of activations per group.
    pub group_rows: usize,
    /// Returns how many rows of activations this kernel multiplies. Arguments: the matrix, and the number of remaining
    /// rows.
    pub row_count: fn(&CodeMatrix, usize) -> usize,
    /// Returns the zero point of the matrix's codes. The packed correction terms subtract the contribution of this zero
    /// point from the products.
    pub zero_point: fn(&CodeMatrix) -> i16,
    /// Packs one group of rows. Arguments: the activations, the range of rows, the zero point of the correction terms,
    /// a flag, and the target. The group starts at the start of the range. Rows of the group past the end of the range
    /// are filled with zeros. The flag requests separate correction terms for the two halves of a chunk.
    pub pack: fn(&Activations, Range<usize>, i16, bool, &mut [f32]),
    /// Multiplies some panels with the packed rows of activations.
    pub multiply: MultiplyPacked,
}

/// A function that multiplies panels with packed rows of activations. Arguments: the matrix, a range of its panels, the
/// packed activations, the range of the rows of activations that were packed, and all results.
pub(crate) type MultiplyPacked = unsafe fn(&CodeMatrix, Range<usize>, &[f32], Range<usize>, &Shared<f32>);

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub(crate) struct Detected(&'static InstructionSet);

impl Detected {
    /// Returns `None` if the processor lacks the instruction set.
    pub fn new(set: &'static InstructionSet) -> Option<Self> {
        (set.is_available)().then_some(Self(set))
    }

    /// Returns the number of rows of a panel of integer codes.
    pub fn panel_rows(self) -> usize {
        self.0.codes.panel_rows
    }

    /// Returns the kernels for many rows of activations.
    pub fn many_rows(self) -> &'static [ManyRows] {
        self.0.codes.many_rows
    }

    /// Returns the number of multiply-adds per step of the integer chain.
    pub fn integer_multiply_adds(self) -> usize {
        self.0.integer_chain.multiply_adds
    }

    /// Returns the number of multiply-adds per step of the float chain.
    pub fn float_multiply_adds(self) -> usize {
        self.0.float_chain.multiply_adds
    }
}

macro_rules! loops {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        /// The loops over floats.
        pub(crate) struct Loops {
            $($(#[$doc])* pub $name: unsafe fn($($type),*) $(-> $result)?,)*
        }

        impl Detected {
            $($(#[$doc])* #[inline] pub fn $name(self, $($argument: $type),*) $(-> $result)? {
                // SAFETY: only the detection creates a `Detected`, so the processor has the features of these kernels.
                unsafe { (self.0.loops.$name)($($argument),*) }
            })*
        }
    };
}

loops! {
    /// Returns the dot product of `x` and `y`. The order of the additions depends only on the length.
    dot(x: &[f32], y: &[f32]) -> f32;
    /// Adds the keys and values of page `page` to the attention results of the query rows. `keys` and `values` are the
    /// bytes of this page in `format`.
    attention(format: KvFormat, rows: &mut QueryRows, page: usize, keys: &[u8], values: &[u8]);
    /// Computes `out` += `a` · `b` for few rows of `a`. The rows of `out` are `stride` floats apart. A row of `a` has
    /// `b.rows()` floats.
    add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>);
    /// Reads all whole cache lines at memory speed. Returns the XOR of their 64-bit words.
    read_lines(bytes: &[u8]) -> u64;
    /// Multiplies a part of a panel of floats with the rows of `x`. `out` has one entry of 32 sums per row of `x`.
    float_tile(float_type: FloatType, panel: &[u8], x: View<f32>, out: &mut Products);
    /// Rounds a row of floats to 8-bit codes.
    round_int8(x: &[f32], codes: RowCodes);
    /// Rounds a row of floats to 8-bit codes, and the rounding errors to a second row of 8-bit codes.
    round_int16(x: &[f32], codes: [RowCodes; 2]);
    /// Moves the outliers of a row to `outliers` and rounds the other values to 8-bit codes. Returns the number of
    /// outliers.
    round_with_outliers(x: &[f32], codes: RowCodes, outliers: &mut [Outlier]) -> usize;
    /// Computes softmax in place.
    softmax(x: &mut [f32]);
    /// Computes `gate` = silu(`gate`) × `up`.
    swiglu(gate: &mut [f32], up: &[f32]);
    /// Computes the gradients of `swiglu` in place. `gate` and `up` are the inputs of `swiglu`; the function replaces
    /// them by the gradients with respect to these inputs. `gradient` is the gradient with respect to the output.
    swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]);
    /// Computes the clamped SwiGLU of `gate` and `up` in place of `gate`; see [`ClampedSwiglu`].
    clamped_swiglu(gate: &mut [f32], up: &[f32], settings: ClampedSwiglu);
    /// Computes the gradients of `clamped_swiglu` in place, as `swiglu_gradient` does for `swiglu`.
    clamped_swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32], settings: ClampedSwiglu);
    /// Computes `cap` · tanh(x / `cap`) in place.
    softcap(x: &mut [f32], cap: f32);
    /// Computes GELU in place.
    gelu(x: &mut [f32]);
    /// Computes the gradient of `gelu` in place, as `gelu_tanh_gradient` does for `gelu_tanh`.
    gelu_gradient(x: &mut [f32], gradient: &[f32]);
    /// Computes GELU in place, with the tanh approximation.
    gelu_tanh(x: &mut [f32]);
    /// Computes the gradient of `gelu_tanh` in place. `x` is the input of `gelu_tanh`; the function replaces `x` by the
    /// gradient with respect to this input. `gradient` is the gradient with respect to the output.
    gelu_tanh_gradient(x: &mut [f32], gradient: &[f32]);
    /// Updates the rows of a tile of a recurrent state by one token and writes the token's result.
    delta_tile(state: &mut [[f32; TILE]], token: &TileToken, out: &mut [f32; TILE]);
    /// Computes one token of a convolution, followed by SiLU if `silu` is true. `rows` has a row of channels for each row of weights, and
    /// may be longer.
    convolve(rows: &[f32], weights: &[&[f32]], silu: bool, out: &mut [f32]);
}

impl Detected {
    /// Calls [`CodeKernels::few_rows`].
    pub fn few_rows(self, matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
        // SAFETY: only the detection creates a `Detected`, so the processor has the features of this kernel.
        unsafe { (self.0.codes.few_rows)(matrix, panel, x, first, sums) }
    }

    /// Calls [`CodeKernels::add_outliers`].
    pub fn add_outliers(
        self,
        matrix: &CodeMatrix,
        panels: Range<usize>,
        x: &OutliersOfRows,
        y: &Shared<f32>,
    ) {
        // SAFETY: only the detection creates a `Detected`, so the processor has the features of this kernel.
        unsafe { (self.0.codes.add_outliers)(matrix, panels, x, y) }
    }

    /// Calls [`ManyRows::multiply`] of the kernel with index `index` in [`CodeKernels::many_rows`].
    pub fn multiply_many(
        self,
        index: usize,
        matrix: &CodeMatrix,
        panels: Range<usize>,
        packed: &[f32],
        rows: Range<usize>,
        y: &Shared<f32>,
    ) {
        // SAFETY: only the detection creates a `Detected`, so the processor has the features of this kernel.
        unsafe { (self.0.codes.many_rows[index].multiply)(matrix, panels, packed, rows, y) }
    }

    /// Runs the integer chain.
    pub fn run_integer_chain(self, steps: usize) {
        // SAFETY: only the detection creates a `Detected`, so the processor has the features of this kernel.
        unsafe { (self.0.integer_chain.run)(steps) }
    }

    /// Runs the float chain.
    pub fn run_float_chain(self, steps: usize) {
        // SAFETY: only the detection creates a `Detected`, so the processor has the features of this kernel.
        unsafe { (self.0.float_chain.run)(steps) }
    }
}
