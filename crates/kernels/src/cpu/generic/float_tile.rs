//! One panel of floats times rows of activations: 32 rows of a matrix side by side, column by column, so that vectors hold one
//! column of all. Invariant: a product is summed in one order, by its length alone, whatever is multiplied beside it.

use crate::view::View;
use half::{bf16, f16};

/// Rows of a panel.
pub(crate) const ROWS: usize = 32;
/// Rows of activations whose sums are held at once: a multiple of [`Tile::TOGETHER`].
pub(crate) const HELD: usize = 48;

/// How a panel's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    F32,
    F16,
    Bf16,
}

impl Width {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A weight as it is multiplied: subnormal numbers (below 2⁻¹²⁶) count as zero, because a processor takes up to a hundred
/// times as long for each of them. No such weight changes a result by more than its last bits.
#[inline(always)]
pub(crate) fn flushed(weight: f32) -> f32 {
    if weight.abs() < f32::MIN_POSITIVE { 0.0 } else { weight }
}

/// [`flushed`] for stored numbers of a width. Every `f16` is a normal `f32`.
pub(crate) fn flush(width: Width, bytes: &mut [u8]) {
    match width {
        Width::F32 => {
            for number in bytes.as_chunks_mut().0 {
                *number = flushed(f32::from_le_bytes(*number)).to_le_bytes();
            }
        }
        Width::Bf16 => {
            for number in bytes.as_chunks_mut().0 {
                let bits = u16::from_le_bytes(*number);
                *number = if bits & 0x7f80 == 0 { [0; 2] } else { *number };
            }
        }
        Width::F16 => {}
    }
}

/// Widths as numbers, so that inner loops are compiled for each.
pub(crate) const F32: u8 = 0;
pub(crate) const F16: u8 = 1;
pub(crate) const BF16: u8 = 2;

/// Bytes of a column of a panel of a width.
pub(crate) const fn column_bytes(width: u8) -> usize {
    if width == F32 { 4 * ROWS } else { 2 * ROWS }
}

/// Products of 32 rows, one result for each row of activations.
pub(crate) type Products = [[f32; ROWS]];

/// What an instruction set makes of a part of a panel and some rows of activations.
pub(crate) trait Tile: Copy {
    /// Rows of activations that share what is widened, at most: 12 or 6.
    const TOGETHER: usize;

    /// The sums of each row, column after column. Panics unless every row has as many numbers as the part has columns.
    fn tile<const T: usize>(self, width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T];
}

/// Sums of a part of a panel with rows of activations, as many as `out` has.
#[inline(always)]
pub(crate) fn multiply<K: Tile>(simd: K, width: Width, panel: &[u8], x: View<f32>, out: &mut Products) {
    assert_eq!(x.rows(), out.len(), "sums of every row");
    let mut first = 0;
    while first < out.len() {
        macro_rules! put {
            ($count:literal) => {{
                let x: [&[f32]; $count] = std::array::from_fn(|t| x.row(first + t));
                out[first..][..$count].copy_from_slice(&simd.tile(width, panel, x));
                first += $count;
            }};
        }
        match out.len() - first {
            1 => put!(1),
            2 => put!(2),
            3 => put!(3),
            4 | 5 => put!(4),
            12.. if K::TOGETHER == 12 => put!(12),
            _ => put!(6),
        }
    }
    const { assert!((K::TOGETHER == 6 || K::TOGETHER == 12) && HELD.is_multiple_of(K::TOGETHER)) };
}

/// Columns of a part of a panel. Panics unless every row has as many numbers.
pub(crate) fn columns<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> usize {
    let columns = panel.len() / (ROWS * width.bytes());
    assert!(x.iter().all(|x| x.len() == columns), "a number for every column");
    columns
}

/// [`Tile`] in plain Rust.
#[inline(always)]
pub(crate) fn plain<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
    fn of<const BYTES: usize>(bytes: &[u8], number: fn([u8; BYTES]) -> f32) -> f32 {
        bytes.first_chunk().map_or(0.0, |bytes| number(*bytes))
    }
    let number = |bytes: &[u8]| match width {
        Width::F32 => of(bytes, f32::from_le_bytes),
        Width::F16 => of(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Width::Bf16 => of(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
    };
    columns(width, panel, x);
    let mut sums = [[0.0f32; ROWS]; T];
    for (x, sums) in x.iter().zip(&mut sums) {
        for (x, column) in x.iter().zip(panel.chunks_exact(ROWS * width.bytes())) {
            for (sum, bytes) in sums.iter_mut().zip(column.chunks_exact(width.bytes())) {
                *sum += x * number(bytes);
            }
        }
    }
    sums
}
