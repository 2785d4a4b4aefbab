//! Rows of activations in the two forms that inner loops read: separate rows or packed groups. A panel is 8 or 16 rows
//! of a matrix, a chunk is 32 columns, and a quad is four columns (`codes/layout.rs`).

use crate::cpu::codes::activations::Row;
use crate::cpu::codes::layout::{CHUNK, HALF_GROUPS, ROWS};
use crate::cpu::codes::matrix::CodeMatrix;
use crate::cpu::codes::packed_activations::PackedChunk;
use crate::shared::Shared;
use std::ops::Range;

/// Number of rows of activations that stay in the cache while a task multiplies all its panels with these rows.
const CACHED_ROWS: usize = 64;

/// Read access to `T` rows of activations. `chunk` is the index of a chunk; `t` is the index of a row, below `T`.
pub(crate) trait Rows<const T: usize>: Copy {
    /// Returns the four codes of quad `q` of a chunk, for row `t`. `q` is below 8.
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32;
    /// Returns the value of [`Row::zero_point_correction`] for row `t`.
    fn zero_point_correction(&self, chunk: usize, t: usize) -> [i32; 2];
    /// Returns the scale of a chunk, and this scale times the sum of the chunk's codes, for row `t`.
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2];
}

/// Separate rows. `SCALES` is the scale layout of the matrix, and `zero_point` is the zero point of its codes.
/// Invariant: the caller reads only chunks that all rows have.
#[derive(Clone, Copy)]
pub(crate) struct SeparateRows<'a, const T: usize, const SCALES: u8> {
    pub rows: [Row<'a>; T],
    pub zero_point: i16,
}

impl<const T: usize, const SCALES: u8> Rows<T> for SeparateRows<'_, T, SCALES> {
    #[inline(always)]
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32 {
        // SAFETY: by the invariant of this type, the row has this chunk. A chunk has 32 codes, so it has quad `q`.
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

/// Multiplies some panels of the matrix with all packed groups of `R` rows of activations, and writes the results to
/// `y`. The first row of the first group is row `rows.start` of the activations. `multiply_panel` multiplies one panel
/// with one group.
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
                    // SAFETY: each task has its own panels, so no other task writes these results.
                    unsafe { matrix.write_sums(y, first + t, panel, sums) };
                }
            }
        }
    }
}
