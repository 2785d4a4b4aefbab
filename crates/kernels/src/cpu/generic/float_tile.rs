//! Products of one panel of floats with rows of activations. A panel stores 32 rows of a matrix column by column, so
//! that a vector holds one column of several rows.
//! Invariant: the order of a sum depends only on its length, not on what else is multiplied in the same call.

use crate::view::View;
use half::{bf16, f16};

/// Rows per panel.
pub(crate) const ROWS: usize = 32;
/// Rows of activations whose sums are held at once: a multiple of [`Tile::MAX_ROWS`].
pub(crate) const ROWS_AT_ONCE: usize = 48;

/// The type in which the floats of a panel are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// Returns the bytes per float.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Returns the weight, or zero if it is subnormal (below 2⁻¹²⁶), because processors multiply subnormal numbers very
/// slowly. This changes a result by its last bits at most.
#[inline(always)]
pub(crate) fn flush_subnormal(weight: f32) -> f32 {
    if weight.abs() < f32::MIN_POSITIVE { 0.0 } else { weight }
}

/// Applies [`flush_subnormal`] to stored floats. Every `f16` is a normal `f32`.
pub(crate) fn flush_subnormals(float_type: FloatType, bytes: &mut [u8]) {
    match float_type {
        FloatType::F32 => {
            for float in bytes.as_chunks_mut().0 {
                *float = flush_subnormal(f32::from_le_bytes(*float)).to_le_bytes();
            }
        }
        FloatType::Bf16 => {
            for float in bytes.as_chunks_mut().0 {
                let bits = u16::from_le_bytes(*float);
                *float = if bits & 0x7f80 == 0 { [0; 2] } else { *float };
            }
        }
        FloatType::F16 => {}
    }
}

/// The types as integer constants for const generics, so that inner loops are compiled for each type.
pub(crate) const F32: u8 = 0;
pub(crate) const F16: u8 = 1;
pub(crate) const BF16: u8 = 2;

/// Returns the bytes of one column of a panel.
pub(crate) const fn column_bytes(float_type: u8) -> usize {
    if float_type == F32 { 4 * ROWS } else { 2 * ROWS }
}

/// Products with the 32 rows of a panel, one entry per row of activations.
pub(crate) type Products = [[f32; ROWS]];

/// Multiplies a part of a panel with a fixed number of rows of activations, on one instruction set.
pub(crate) trait Tile: Copy {
    /// Maximum number of rows of activations that share a converted column: 12 or 6.
    const MAX_ROWS: usize;

    /// Returns the sums of each row, added column after column. Panics unless every row has as many floats as the part
    /// has columns.
    fn tile<const T: usize>(self, float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T];
}

/// Computes the sums of a part of a panel with rows of activations; `out` has one entry per row.
#[inline(always)]
pub(crate) fn multiply<K: Tile>(
    simd: K,
    float_type: FloatType,
    panel: &[u8],
    x: View<f32>,
    out: &mut Products,
) {
    assert_eq!(x.rows(), out.len(), "sums of every row");
    let mut first = 0;
    while first < out.len() {
        macro_rules! put {
            ($count:literal) => {{
                let x: [&[f32]; $count] = std::array::from_fn(|t| x.row(first + t));
                out[first..][..$count].copy_from_slice(&simd.tile(float_type, panel, x));
                first += $count;
            }};
        }
        match out.len() - first {
            1 => put!(1),
            2 => put!(2),
            3 => put!(3),
            4 | 5 => put!(4),
            12.. if K::MAX_ROWS == 12 => put!(12),
            _ => put!(6),
        }
    }
    const { assert!((K::MAX_ROWS == 6 || K::MAX_ROWS == 12) && ROWS_AT_ONCE.is_multiple_of(K::MAX_ROWS)) };
}

/// Returns the number of columns of a part of a panel. Panics unless every row has this number of floats.
pub(crate) fn columns<const T: usize>(float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> usize {
    let columns = panel.len() / (ROWS * float_type.bytes());
    assert!(x.iter().all(|x| x.len() == columns), "a number for every column");
    columns
}

/// Computes [`Tile::tile`] in plain Rust.
#[inline(always)]
pub(crate) fn plain<const T: usize>(float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
    fn decode<const BYTES: usize>(bytes: &[u8], to_f32: fn([u8; BYTES]) -> f32) -> f32 {
        bytes.first_chunk().map_or(0.0, |bytes| to_f32(*bytes))
    }
    let to_f32 = |bytes: &[u8]| match float_type {
        FloatType::F32 => decode(bytes, f32::from_le_bytes),
        FloatType::F16 => decode(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        FloatType::Bf16 => decode(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
    };
    columns(float_type, panel, x);
    let mut sums = [[0.0f32; ROWS]; T];
    for (x, sums) in x.iter().zip(&mut sums) {
        for (x, column) in x.iter().zip(panel.chunks_exact(ROWS * float_type.bytes())) {
            for (sum, bytes) in sums.iter_mut().zip(column.chunks_exact(float_type.bytes())) {
                *sum += x * to_f32(bytes);
            }
        }
    }
    sums
}
