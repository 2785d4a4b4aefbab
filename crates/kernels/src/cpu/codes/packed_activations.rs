//! Rows of activations, packed in groups: rows that are multiplied together lie next to each other. Rows a power of two apart
//! would fall on the same cache lines, and so many pointers fit no registers.

use super::activations::Activations;
use super::layout::CHUNK;
use std::ops::Range;

/// A chunk of `R` rows of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PackedChunk<const R: usize> {
    pub codes: [[i8; CHUNK]; R],
    pub scales: [f32; R],
    /// Scales times the sums of codes.
    pub scaled: [f32; R],
    /// As [`super::activations::Row::zero_point_correction`].
    pub corrections: [[i32; R]; 2],
}

macro_rules! plain_numbers {
    ($($rows:literal)*) => {
        $(
            // SAFETY: plain numbers, 48 bytes a row, which are whole lines: no padding.
            unsafe impl bytemuck::Zeroable for PackedChunk<$rows> {}
            // SAFETY: as above; `Copy`, and any bits are numbers.
            unsafe impl bytemuck::Pod for PackedChunk<$rows> {}
            const _: () = assert!(size_of::<PackedChunk<$rows>>() == 4 * ROW_FLOATS * $rows);
        )*
    };
}
plain_numbers!(4 8 16);

/// Packs rows `rows.start..rows.start + R` of `x`, where there are such below `rows.end`, chunk after chunk into `packed`; other
/// rows are zero. `zero_point` is that of the matrix's codes; with `halves` either half of a chunk has a correction of its own.
/// With `TRANSPOSED` the codes of a chunk lie quad by quad, each of all rows, instead of row by row.
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
        let parts = row.codes.as_chunks::<CHUNK>().0.iter().zip(row.scales);
        for (chunk, (packed, (codes, [scale, scaled]))) in packed.iter_mut().zip(parts).enumerate() {
            if TRANSPOSED {
                let quads =
                    packed.codes.as_flattened_mut().as_chunks_mut::<4>().0.iter_mut().skip(t).step_by(R);
                quads.zip(codes.as_chunks::<4>().0).for_each(|(quad, codes)| *quad = *codes);
            } else {
                packed.codes[t] = *codes;
            }
            (packed.scales[t], packed.scaled[t]) = (*scale, *scaled);
            [packed.corrections[0][t], packed.corrections[1][t]] =
                row.zero_point_correction(chunk, zero_point, halves);
        }
    }
}

/// Floats that a packed chunk takes for each of its rows.
pub(crate) const ROW_FLOATS: usize = 12;
