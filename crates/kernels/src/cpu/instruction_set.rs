//! The kernels of one instruction set: a row of the table in `instruction_sets.rs`.
//!
//! Kernels are compiled for features that a processor may lack, so calling one is unsafe. [`Detected`] is the proof that
//! it has them: only detection makes one, and its methods are the only callers.

use super::codes::activations::{Activations, RowCodes};
use super::codes::matrix::{CodeMatrix, Sums};
use super::codes::outliers::{Outlier, OutliersOfRows};
use super::generic::attention_kernel::QueryRows;
use super::generic::float_tile::{Products, Width};
use crate::shared::Shared;
use crate::view::View;
use crate::{Isa, KvFormat};
use std::ops::Range;

/// All kernels of an instruction set.
pub(crate) struct InstructionSet {
    /// Its name.
    pub isa: Isa,
    /// Whether this processor has it.
    pub is_available: fn() -> bool,
    /// The loops over floats.
    pub loops: Loops,
    /// The products with integer codes.
    pub codes: CodeKernels,
    /// The chain that measures the peak of integer products.
    pub integer_chain: Chain,
    /// The same of float products.
    pub float_chain: Chain,
}

/// Dependent instructions without memory access, to measure a peak.
pub(crate) struct Chain {
    /// Multiply-adds of a step.
    pub multiply_adds: usize,
    /// Runs so many steps.
    pub run: unsafe fn(usize),
}

/// Products of a [`CodeMatrix`] with rounded activations.
pub(crate) struct CodeKernels {
    /// Rows of a panel.
    pub panel_rows: usize,
    /// Ways to multiply many rows of activations. Each takes as many rows as it is good for, the next one the rest.
    pub many_rows: &'static [ManyRows],
    /// One panel with as many rows of activations, from a first one on, as there are sums.
    pub few_rows: unsafe fn(&CodeMatrix, usize, &Activations, usize, &mut Sums),
    /// Adds the products of outliers with some panels.
    pub add_outliers: unsafe fn(&CodeMatrix, Range<usize>, &OutliersOfRows, &Shared<f32>),
}

/// A kernel for groups of rows of activations, which are packed first.
pub(crate) struct ManyRows {
    /// Rows of a group.
    pub group_rows: usize,
    /// How many of so many rows it multiplies.
    pub row_count: fn(&CodeMatrix, usize) -> usize,
    /// The zero point that the sums of activations correct for.
    pub zero_point: fn(&CodeMatrix) -> i16,
    /// Packs the group that begins at a row, where there are such below an end, into chunks for a zero point; scales of half
    /// chunks have corrections of their own.
    pub pack: fn(&Activations, Range<usize>, i16, bool, &mut [f32]),
    /// Multiplies some panels with packed rows.
    pub multiply: MultiplyPacked,
}

/// Takes a matrix, some of its panels, packed rows of activations, which rows these are, and all results.
pub(crate) type MultiplyPacked = unsafe fn(&CodeMatrix, Range<usize>, &[f32], Range<usize>, &Shared<f32>);

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub(crate) struct Detected(&'static InstructionSet);

impl Detected {
    /// `None` if the processor lacks it.
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

    /// Multiply-adds of a step of the integer chain.
    pub fn integer_multiply_adds(self) -> usize {
        self.0.integer_chain.multiply_adds
    }

    /// Multiply-adds of a step of the float chain.
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
                // SAFETY: only detection makes a `Detected`: the processor has the features of its kernels.
                unsafe { (self.0.loops.$name)($($argument),*) }
            })*
        }
    };
}

loops! {
    /// Σ xᵢ yᵢ in an order that depends on the length alone.
    dot(x: &[f32], y: &[f32]) -> f32;
    /// Adds a page (its number, its keys and values in this format) to the results of query rows.
    attention(format: KvFormat, rows: &mut QueryRows, page: usize, keys: &[u8], values: &[u8]);
    /// `out` (rows `stride` apart) += a · b for few rows of a, each as many numbers as b has rows.
    add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>);
    /// Folds whole cache lines into a word, as fast as they come from memory.
    read_lines(bytes: &[u8]) -> u64;
    /// Products of a part of a panel of floats with rows of activations.
    float_tile(width: Width, panel: &[u8], x: View<f32>, out: &mut Products);
    /// Rounds a row of floats to codes of eight bits.
    round_int8(x: &[f32], codes: RowCodes);
    /// The same, and rounds the remainder to a second row of codes.
    round_int16(x: &[f32], codes: [RowCodes; 2]);
    /// Takes a row's outliers out and rounds the others to codes of eight bits; gives the number of outliers.
    round_with_outliers(x: &[f32], codes: RowCodes, outliers: &mut [Outlier]) -> usize;
    /// Softmax in place.
    softmax(x: &mut [f32]);
    /// `gate` = silu(`gate`) × `up`.
    swiglu(gate: &mut [f32], up: &[f32]);
    /// The gradients at both inputs of `swiglu`, in their place, from that at its output.
    swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]);
    /// GELU in place, approximated by tanh.
    gelu_tanh(x: &mut [f32]);
    /// The gradient at the input of `gelu_tanh`, in its place, from that at its output.
    gelu_tanh_gradient(x: &mut [f32], gradient: &[f32]);
}

impl Detected {
    /// [`CodeKernels::few_rows`].
    pub fn few_rows(self, matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
        // SAFETY: as of the loops.
        unsafe { (self.0.codes.few_rows)(matrix, panel, x, first, sums) }
    }

    /// [`CodeKernels::add_outliers`].
    pub fn add_outliers(
        self,
        matrix: &CodeMatrix,
        panels: Range<usize>,
        x: &OutliersOfRows,
        y: &Shared<f32>,
    ) {
        // SAFETY: as of the loops.
        unsafe { (self.0.codes.add_outliers)(matrix, panels, x, y) }
    }

    /// [`ManyRows::multiply`] of kernel `index`.
    pub fn multiply_many(
        self,
        index: usize,
        matrix: &CodeMatrix,
        panels: Range<usize>,
        packed: &[f32],
        rows: Range<usize>,
        y: &Shared<f32>,
    ) {
        // SAFETY: as of the loops.
        unsafe { (self.0.codes.many_rows[index].multiply)(matrix, panels, packed, rows, y) }
    }

    /// Runs the integer chain.
    pub fn run_integer_chain(self, steps: usize) {
        // SAFETY: as of the loops.
        unsafe { (self.0.integer_chain.run)(steps) }
    }

    /// Runs the float chain.
    pub fn run_float_chain(self, steps: usize) {
        // SAFETY: as of the loops.
        unsafe { (self.0.float_chain.run)(steps) }
    }
}
