//! Rows of activations as inner loops read them: separate rows or packed groups.

use crate::cpu::codes::activations::Row;
use crate::cpu::codes::layout::{CHUNK, HALF_GROUPS, ROWS};
use crate::cpu::codes::matrix::CodeMatrix;
use crate::cpu::codes::packed_activations::PackedChunk;
use crate::shared::Shared;
use std::ops::Range;

/// Rows of activations that stay in the cache while a task goes through its panels.
const CACHED_ROWS: usize = 64;

/// `T` rows of activations.
pub(crate) trait Rows<const T: usize>: Copy {
    /// Returns four codes of row `t`: quad `q` of a chunk.
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32;
    /// Returns the value of [`Row::zero_point_correction`] of row `t`.
    fn zero_point_correction(&self, chunk: usize, t: usize) -> [i32; 2];
    /// Returns the scale of a chunk, and the scale times the sum of its codes.
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2];
}

/// Separate rows. Invariant: the caller reads only chunks that each row has.
#[derive(Clone, Copy)]
pub(crate) struct SeparateRows<'a, const T: usize, const SCALES: u8> {
    pub rows: [Row<'a>; T],
    pub zero_point: i16,
}

impl<const T: usize, const SCALES: u8> Rows<T> for SeparateRows<'_, T, SCALES> {
    #[inline(always)]
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32 {
        // SAFETY: the invariant; a chunk has 32 codes.
        unsafe { self.rows[t].codes.as_ptr().add(chunk * CHUNK + 4 * q).cast::<i32>().read_unaligned() }
    }
    #[inline(always)]
    fn zero_point_correction(&self, chunk: usize, t: usize) -> [i32; 2] {
        self.rows[t].zero_point_correction(chunk, self.zero_point, SCALES == HALF_GROUPS)
    }
    #[inline(always)]
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2] {
        self.rows[t].scales[chunk]
    }
}

impl<const T: usize> Rows<T> for &[PackedChunk<T>] {
    #[inline(always)]
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32 {
        let codes = self[chunk].codes[t].as_chunks::<4>().0[q];
        i32::from_ne_bytes(codes.map(i8::cast_unsigned))
    }
    #[inline(always)]
    fn zero_point_correction(&self, chunk: usize, t: usize) -> [i32; 2] {
        self[chunk].corrections.map(|correction| correction[t])
    }
    #[inline(always)]
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2] {
        [self[chunk].scales[t], self[chunk].scaled_sums[t]]
    }
}

/// Computes `y` = x · the matrix for some panels and all packed groups of `R` rows; the first row of the first group is
/// row `rows.start` of x. `multiply_panel` multiplies one panel with one group.
#[inline(always)]
pub(crate) fn multiply_groups<const R: usize>(
    matrix: &CodeMatrix,
    panels: Range<usize>,
    packed: &[f32],
    rows: Range<usize>,
    y: &Shared<f32>,
    multiply_panel: impl Fn(usize, &[PackedChunk<R>]) -> [[f32; ROWS]; R],
) where
    PackedChunk<R>: bytemuck::Pod,
{
    let (chunks, packed): (usize, &[PackedChunk<R>]) = (matrix.chunks(), bytemuck::cast_slice(packed));
    for (block, packed) in packed.chunks(CACHED_ROWS / R * chunks).enumerate() {
        for panel in panels.clone() {
            for (group, packed) in packed.chunks(chunks).enumerate() {
                let first = rows.start + block * CACHED_ROWS + group * R;
                for (t, sums) in multiply_panel(panel, packed).iter().enumerate() {
                    // SAFETY: each task has its own panels.
                    unsafe { matrix.write_sums(y, first + t, panel, sums) };
                }
            }
        }
    }
}
