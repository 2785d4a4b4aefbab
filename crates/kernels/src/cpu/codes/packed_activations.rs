//! Rows of activations that are packed in groups. The rows of a group are multiplied together and are adjacent in
//! memory. There are two reasons for packing. Separate rows whose distance is a power of two would compete for the same
//! cache lines. Also, the registers cannot hold a pointer to each row.

use super::activations::Activations;
use super::layout::CHUNK;
use std::ops::Range;

/// One chunk (32 columns) of a group of `R` rows of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PackedChunk<const R: usize> {
    /// The codes, row by row or quad by quad; see [`pack`].
    pub codes: [[i8; CHUNK]; R],
    /// For each row: the scale of the codes.
    pub scales: [f32; R],
    /// For each row: the scale times the sum of the codes.
    pub scaled_sums: [f32; R],
    /// The two values of [`super::activations::Row::zero_point_correction`] for each row.
    pub corrections: [[i32; R]; 2],
}

macro_rules! plain_data {
    ($($rows:literal)*) => {
        $(
            // SAFETY: all fields are integers and floats, for which zero bytes are valid.
            unsafe impl bytemuck::Zeroable for PackedChunk<$rows> {}
            // SAFETY: the fields have 48 bytes per row, and their total is a multiple of the alignment of 64 bytes. So
            // there is no padding. The type is `Copy`, and all bit patterns are valid.
            unsafe impl bytemuck::Pod for PackedChunk<$rows> {}
            const _: () = assert!(size_of::<PackedChunk<$rows>>() == 4 * ROW_FLOATS * $rows);
        )*
    };
}
plain_data!(4 8 16);

/// Packs the rows `rows.start..rows.start + R` of `x` into `packed`, chunk after chunk. Rows from `rows.end` on become
/// zero. `zero_point` is the zero point of the matrix's codes. If `halves` is true, each half of a chunk has its own
/// correction. A quad is four consecutive codes of a row. If `TRANSPOSED` is true, the codes of a chunk are stored quad
/// by quad: first quad 0 of all rows, then quad 1 of all rows, and so on. Otherwise they are stored row by row.
pub(crate) fn pack<const R: usize, const TRANSPOSED: bool>(
    x: &Activations,
    rows: Range<usize>,
    zero_point: i16,
    halves: bool,
    packed: &mut [f32],
) where
    PackedChunk<R>: bytemuck::Pod,
{
    let packed: &mut [PackedChunk<R>] = bytemuck::cast_slice_mut(packed);
    let (first, end) = (rows.start, rows.end);
    if first + R > end {
        packed.fill(bytemuck::Zeroable::zeroed());
    }
    for t in 0..R.min(end - first) {
        let row = x.row(first + t);
        let chunks = row.codes.as_chunks::<CHUNK>().0.iter().zip(row.scales);
        for (chunk, (packed, (codes, [scale, scaled_sums]))) in packed.iter_mut().zip(chunks).enumerate() {
            if TRANSPOSED {
                let quads =
                    packed.codes.as_flattened_mut().as_chunks_mut::<4>().0.iter_mut().skip(t).step_by(R);
                quads.zip(codes.as_chunks::<4>().0).for_each(|(quad, codes)| *quad = *codes);
            } else {
                packed.codes[t] = *codes;
            }
            (packed.scales[t], packed.scaled_sums[t]) = (*scale, *scaled_sums);
            [packed.corrections[0][t], packed.corrections[1][t]] =
                row.zero_point_correction(chunk, zero_point, halves);
        }
    }
}

/// The size of a packed chunk per row, counted in floats of four bytes.
pub(crate) const ROW_FLOATS: usize = 12;
