//! Products of one panel of floats with rows of activations. A panel stores 32 rows of a matrix column by column, so
//! that a vector holds one column of several rows. A tile is the product of a part of a panel (some of its columns)
//! with a few rows of activations.
//!
//! Invariant: the order of the additions of a sum depends only on the number of columns. It does not depend on the
//! other rows of the call.

use crate::view::View;
use half::{bf16, f16};

/// Number of rows per panel.
pub(crate) const ROWS: usize = 32;
/// Number of rows of activations that `float_product.rs` multiplies per call of [`multiply`]; the last call may have
/// fewer rows. This number is a multiple of [`Tile::MAX_ROWS`], so that only the last call has a smaller tile.
pub(crate) const ROWS_AT_ONCE: usize = 48;

/// The type in which the floats of a panel are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// Returns the number of bytes per float.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Returns the weight, or zero if the magnitude of the weight is subnormal (below 2⁻¹²⁶). The reason is that processors
/// multiply subnormal numbers very slowly. At most the last bits of a result change.
#[inline(always)]
pub(crate) fn flush_subnormal(weight: f32) -> f32 {
    if weight.abs() < f32::MIN_POSITIVE { 0.0 } else { weight }
}

/// Applies [`flush_subnormal`] to stored floats. It does not change `f16`, because every `f16` becomes a normal `f32`
/// or zero.
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

/// The constant for [`FloatType::F32`]. These constants are const generic arguments of the inner loops, so that the
/// loops are compiled for each type.
pub(crate) const F32: u8 = 0;
pub(crate) const F16: u8 = 1;
pub(crate) const BF16: u8 = 2;

/// Returns the number of bytes of one column of a panel. `float_type` is one of the constants above.
pub(crate) const fn column_bytes(float_type: u8) -> usize {
    if float_type == F32 { 4 * ROWS } else { 2 * ROWS }
}

/// Sums of products with the 32 rows of a panel, one entry per row of activations.
pub(crate) type Products = [[f32; ROWS]];

/// The products of a part of a panel with a fixed number of rows of activations, on one instruction set.
pub(crate) trait Tile: Copy {
    /// Maximum number of rows of activations per call of `tile`: 12 or 6. These rows share each converted column.
    const MAX_ROWS: usize;

    /// Returns the sums for each row of activations. The products are added column after column.
    ///
    /// # Panics
    /// If the number of floats of a row is not the number of columns of the part.
    fn tile<const T: usize>(self, float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T];
}

/// Multiplies a part of a panel with the rows of `x`. Entry i of `out` receives the sums for row i.
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

/// Returns the number of columns of a part of a panel. Panics unless every row of `x` has this number of floats.
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
