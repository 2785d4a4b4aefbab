//! The kernels of one instruction set: one row of the table in `instruction_sets.rs`.
//!
//! Kernels are compiled for features that a processor may lack, so a call of a kernel is unsafe. A [`Detected`] proves
//! that the processor has these features: only the detection creates one, and only its methods call the kernels.

use super::codes::activations::{Activations, RowCodes};
use super::codes::matrix::{CodeMatrix, Sums};
use super::codes::outliers::{Outlier, OutliersOfRows};
use super::generic::attention_kernel::QueryRows;
use super::generic::float_tile::{FloatType, Products};
use crate::shared::Shared;
use crate::view::View;
use crate::{Isa, KvFormat};
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
    /// The chain that measures the peak throughput of integer products.
    pub integer_chain: Chain,
    /// The chain that measures the peak throughput of float products.
    pub float_chain: Chain,
}

/// Arithmetic instructions without memory access, to measure the peak throughput.
pub(crate) struct Chain {
    /// Multiply-adds per step.
    pub multiply_adds: usize,
    /// Runs the given number of steps.
    pub run: unsafe fn(usize),
}

/// Products of a [`CodeMatrix`] with activations that are rounded to integer codes.
pub(crate) struct CodeKernels {
    /// Rows of a panel.
    pub panel_rows: usize,
    /// Kernels for many rows of activations. Each kernel takes the rows that it multiplies fast; the next kernel takes
    /// the remaining rows.
    pub many_rows: &'static [ManyRows],
    /// Multiplies one panel with some rows of activations. Arguments: the matrix, the index of the panel, the
    /// activations, the first row of activations, and the sums, one entry per row.
    pub few_rows: unsafe fn(&CodeMatrix, usize, &Activations, usize, &mut Sums),
    /// Adds the products of the outliers with some panels to the results.
    pub add_outliers: unsafe fn(&CodeMatrix, Range<usize>, &OutliersOfRows, &Shared<f32>),
}

/// A kernel for groups of rows of activations. The groups are packed first.
pub(crate) struct ManyRows {
    /// Rows per group.
    pub group_rows: usize,
    /// Given the number of remaining rows, returns how many of them this kernel multiplies.
    pub row_count: fn(&CodeMatrix, usize) -> usize,
    /// The zero point that the packed correction terms compensate.
    pub zero_point: fn(&CodeMatrix) -> i16,
    /// Packs one group of rows. The group starts at `range.start`; rows from `range.end` on are filled with zeros. The
    /// `i16` is the zero point of the correction terms. The `bool` requests separate correction terms for the two
    /// halves of a chunk.
    pub pack: fn(&Activations, Range<usize>, i16, bool, &mut [f32]),
    /// Multiplies some panels with the packed rows.
    pub multiply: MultiplyPacked,
}

/// Arguments: the matrix, a range of its panels, the packed activations, the range of rows that were packed, and all
/// results.
pub(crate) type MultiplyPacked = unsafe fn(&CodeMatrix, Range<usize>, &[f32], Range<usize>, &Shared<f32>);

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub(crate) struct Detected(&'static InstructionSet);

impl Detected {
    /// Returns `None` if the processor lacks the instruction set.
    pub fn new(set: &'static InstructionSet) -> Option<Self> {
        (set.is_available)().then_some(Self(set))
    }

    /// Rows of a panel of integer codes.
    pub fn panel_rows(self) -> usize {
        self.0.codes.panel_rows
    }

    /// The kernels for many rows of activations.
    pub fn many_rows(self) -> &'static [ManyRows] {
        self.0.codes.many_rows
    }

    /// Multiply-adds per step of the integer chain.
    pub fn integer_multiply_adds(self) -> usize {
        self.0.integer_chain.multiply_adds
    }

    /// Multiply-adds per step of the float chain.
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
    /// Returns Σ xᵢ yᵢ. The order of the sum depends only on the length.
    dot(x: &[f32], y: &[f32]) -> f32;
    /// Adds page `page` to the results of the query rows. `keys` and `values` are its bytes in this format.
    attention(format: KvFormat, rows: &mut QueryRows, page: usize, keys: &[u8], values: &[u8]);
    /// Computes `out` += a · b for few rows of `a`. The rows of `out` are `stride` floats apart. A row of `a` has as
    /// many floats as `b` has rows.
    add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>);
    /// Reads whole cache lines at memory speed; returns the XOR of their words.
    read_lines(bytes: &[u8]) -> u64;
    /// Multiplies a part of a panel of floats with rows of activations.
    float_tile(float_type: FloatType, panel: &[u8], x: View<f32>, out: &mut Products);
    /// Rounds a row of floats to 8-bit codes.
    round_int8(x: &[f32], codes: RowCodes);
    /// Rounds a row of floats to 8-bit codes, and the remainder to a second row of 8-bit codes.
    round_int16(x: &[f32], codes: [RowCodes; 2]);
    /// Moves the outliers of a row to `outliers` and rounds the other values to 8-bit codes. Returns the number of
    /// outliers.
    round_with_outliers(x: &[f32], codes: RowCodes, outliers: &mut [Outlier]) -> usize;
    /// Computes softmax in place.
    softmax(x: &mut [f32]);
    /// Computes `gate` = silu(`gate`) × `up`.
    swiglu(gate: &mut [f32], up: &[f32]);
    /// Replaces `gate` and `up` by the gradients at these inputs of `swiglu`; `gradient` is the gradient at its output.
    swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]);
    /// Computes GELU in place, with the tanh approximation.
    gelu_tanh(x: &mut [f32]);
    /// Replaces `x` by the gradient at this input of `gelu_tanh`; `gradient` is the gradient at its output.
    gelu_tanh_gradient(x: &mut [f32], gradient: &[f32]);
}

impl Detected {
    /// Calls [`CodeKernels::few_rows`].
    pub fn few_rows(self, matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
        // SAFETY: as for the loops above.
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
        // SAFETY: as for the loops above.
        unsafe { (self.0.codes.add_outliers)(matrix, panels, x, y) }
    }

    /// Calls [`ManyRows::multiply`] of kernel `index`.
    pub fn multiply_many(
        self,
        index: usize,
        matrix: &CodeMatrix,
        panels: Range<usize>,
        packed: &[f32],
        rows: Range<usize>,
        y: &Shared<f32>,
    ) {
        // SAFETY: as for the loops above.
        unsafe { (self.0.codes.many_rows[index].multiply)(matrix, panels, packed, rows, y) }
    }

    /// Runs the integer chain.
    pub fn run_integer_chain(self, steps: usize) {
        // SAFETY: as for the loops above.
        unsafe { (self.0.integer_chain.run)(steps) }
    }

    /// Runs the float chain.
    pub fn run_float_chain(self, steps: usize) {
        // SAFETY: as for the loops above.
        unsafe { (self.0.float_chain.run)(steps) }
    }
}
