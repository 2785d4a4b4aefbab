//! Activations that are rounded to integers: 8-bit codes with one scale per chunk. A chunk is 32 consecutive values of
//! a row. There are three precisions ([`crate::Precision`]). `int8` stores only the codes; the other two precisions
//! have a smaller rounding error.
//!
//! `int8-outliers` removes the outliers of a row from the codes. An outlier is a value whose magnitude is larger than
//! [`OUTLIER_RATIO`] times the mean magnitude of the row. Outliers are multiplied without rounding
//! (`generic/outliers.rs`), and the scale of the other values of the chunk becomes smaller. By Markov's inequality, the
//! share of outliers in a row is at most 1 / [`OUTLIER_RATIO`]. LLM.int8() (Dettmers et al., 2022, arXiv:2208.07339,
//! section 3.2) introduced the idea that a few columns are not rounded, but it selects the columns for the whole batch.
//! Here each row selects its own outliers, so that the result of a row does not depend on other rows.
//!
//! `int16` rounds the rounding errors of the first row of codes to a second row of codes. The product of a row of
//! activations is the sum of the products of its two rows of codes.

use super::layout::CHUNK;
use super::outliers::Outlier;
use std::hint::black_box;

/// The smallest ratio of an outlier's magnitude to the mean magnitude of its row (exclusive).
pub(crate) const OUTLIER_RATIO: f32 = 2.5;

/// Rows of 8-bit codes.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    /// Number of codes in a row.
    pub columns: usize,
    /// Codes in −127..=127. Shape: rows × columns.
    pub codes: &'a [i8],
    /// For each chunk of each row: the scale, and the scale times the sum of the chunk's codes.
    pub scales: &'a [[f32; 2]],
    /// For each chunk of each row: the sum of the codes of the first half, and of the second half.
    pub sums: &'a [[i16; 2]],
}

/// One row of codes. The fields have the same meaning as in [`Activations`].
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [[f32; 2]],
    pub sums: &'a [[i16; 2]],
}

/// The memory for one row of codes. The fields have the same meaning as in [`Activations`].
pub(crate) struct RowCodes<'a> {
    pub codes: &'a mut [i8],
    pub scales: &'a mut [[f32; 2]],
    pub sums: &'a mut [[i16; 2]],
}

impl Row<'_> {
    /// Returns the correction for the zero point of the matrix's codes in chunk `chunk`: −`zero_point` times the sum of
    /// the activations' codes. If this integer is added to the products, the zero point has no effect. If `halves` is
    /// true, there is one correction for each half of the chunk. Otherwise the first element is the correction for the
    /// whole chunk, and the second element is zero.
    #[inline(always)]
    pub fn zero_point_correction(&self, chunk: usize, zero_point: i16, halves: bool) -> [i32; 2] {
        let [first, second] = self.sums[chunk].map(|sum| -i32::from(zero_point) * i32::from(sum));
        if halves { [first, second] } else { [first + second, 0] }
    }
}

impl<'a> Activations<'a> {
    /// Returns the number of rows of codes.
    pub fn rows(&self) -> usize {
        self.codes.len() / self.columns
    }

    pub fn row(&self, index: usize) -> Row<'a> {
        let chunks = self.columns / CHUNK;
        Row {
            codes: &self.codes[index * self.columns..][..self.columns],
            scales: &self.scales[index * chunks..][..chunks],
            sums: &self.sums[index * chunks..][..chunks],
        }
    }
}

/// Returns the number of entries that the memory for the outliers of a row needs. It is the bound of Markov's
/// inequality, plus a margin because `f32` sums are rounded, plus one entry because [`round_with_outliers`] writes an
/// entry before it knows if the value is an outlier.
pub(crate) fn max_outliers(columns: usize) -> usize {
    (columns as f32 / OUTLIER_RATIO) as usize + columns / 1024 + 2
}

/// Rounds a row to 8-bit codes.
#[inline(always)]
pub(crate) fn round_int8(x: &[f32], row: RowCodes) {
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(row.codes.as_chunks_mut::<CHUNK>().0);
    for ((x, codes), (scale, sums)) in chunks.zip(row.scales.iter_mut().zip(row.sums)) {
        round_chunk(x, codes, scale, sums);
    }
}

/// Rounds a row to 8-bit codes, and the rounding errors to a second row of 8-bit codes.
#[inline(always)]
pub(crate) fn round_int16(x: &[f32], [first, second]: [RowCodes; 2]) {
    let first_chunks =
        first.codes.as_chunks_mut::<CHUNK>().0.iter_mut().zip(first.scales.iter_mut().zip(first.sums));
    let second_chunks =
        second.codes.as_chunks_mut::<CHUNK>().0.iter_mut().zip(second.scales.iter_mut().zip(second.sums));
    for (x, (first, second)) in x.as_chunks::<CHUNK>().0.iter().zip(first_chunks.zip(second_chunks)) {
        let (codes, (scale, sums)) = first;
        round_chunk(x, codes, scale, sums);
        let mut remainder = *x;
        for (remainder, code) in remainder.iter_mut().zip(&*codes) {
            *remainder = (-scale[0]).mul_add(f32::from(*code), *remainder);
        }
        let (codes, (scale, sums)) = second;
        round_chunk(&remainder, codes, scale, sums);
    }
}

/// Moves the outliers of a row to `outliers`, in the order of their columns, and rounds the other values to codes.
/// Returns the number of outliers. This number is 0 if a value or the sum of the magnitudes is not finite, or if the
/// mean magnitude is nearly zero.
#[inline(always)]
pub(crate) fn round_with_outliers(x: &[f32], row: RowCodes, outliers: &mut [Outlier]) -> usize {
    let mut magnitudes = [0.0f32; CHUNK];
    for x in x.as_chunks::<CHUNK>().0 {
        for (magnitude, x) in magnitudes.iter_mut().zip(x) {
            *magnitude += x.abs();
        }
    }
    let mut sum = 0.0;
    for magnitude in magnitudes {
        sum += magnitude;
    }
    let bound = sum / x.len() as f32 * OUTLIER_RATIO;
    // Magnitudes are compared as bits. The order is the same as for floats, and NaN is larger than every number.
    // A subnormal bound may have a rounding error of half its value. More values than `outliers` can hold could exceed
    // such a bound, so in this case no value is an outlier.
    let bound = if bound.is_normal() { bound.to_bits().cast_signed() } else { i32::MAX };
    let is_outlier = |x: f32| (x.to_bits() & 0x7fff_ffff).cast_signed() > bound;
    let mut count = 0;
    // A store that crosses a cache line delays the load after it.
    #[repr(align(64))]
    struct Remainder([f32; CHUNK]);
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(row.codes.as_chunks_mut::<CHUNK>().0);
    for (chunk, ((x, codes), (scale, sums))) in chunks.zip(row.scales.iter_mut().zip(row.sums)).enumerate() {
        let x = black_box(x);
        let (mut remainder, mut mask) = (Remainder([0.0; CHUNK]), 0u32);
        for (column, (remainder, x)) in remainder.0.iter_mut().zip(x).enumerate() {
            *remainder = if is_outlier(*x) { 0.0 } else { *x };
            mask |= u32::from(is_outlier(*x)) << column;
        }
        // Few chunks have more than four outliers. The first four outliers are written without a branch: the entry is
        // always written, but `count` only increases if the value is an outlier.
        for _ in 0..4 {
            let column = mask.trailing_zeros() as usize % CHUNK;
            outliers[count] = Outlier { index: (chunk * CHUNK + column) as u32, value: x[column] };
            count += usize::from(mask != 0);
            mask &= mask.wrapping_sub(1);
        }
        while mask != 0 {
            let column = mask.trailing_zeros() as usize;
            outliers[count] = Outlier { index: (chunk * CHUNK + column) as u32, value: x[column] };
            count += 1;
            mask &= mask - 1;
        }
        round_chunk(&remainder.0, codes, scale, sums);
    }
    count
}

/// Rounds one chunk to codes, and computes its entries of [`Activations::scales`] and [`Activations::sums`].
#[inline(always)]
fn round_chunk(x: &[f32; CHUNK], codes: &mut [i8; CHUNK], scale: &mut [f32; 2], sums: &mut [i16; 2]) {
    // Without `black_box` the compiler fills a vector with one value from each of many chunks. With `black_box` all
    // values of a vector belong to the same chunk.
    let x = black_box(x);
    // Magnitudes are compared as bits. The order is the same as for floats, and NaN is larger than every number.
    let mut max_magnitude = 0;
    for x in x {
        max_magnitude = max_magnitude.max(x.to_bits() & 0x7fff_ffff);
    }
    let max_magnitude = f32::from_bits(max_magnitude);
    let inverse = 127.0 / max_magnitude;
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    // The sums are computed in a separate loop over integers, in which vector instructions add pairs of integers.
    let mut rounded = [0i32; CHUNK];
    for (code, x) in rounded.iter_mut().zip(x) {
        // 1.5 · 2²³. After this constant is added to a value, the last bits of the sum are the nearest integer (ties to
        // even).
        const ROUNDING: f32 = 12_582_912.0;
        *code = (x * inverse + ROUNDING).to_bits().cast_signed() - ROUNDING.to_bits().cast_signed();
    }
    for (code, rounded) in codes.iter_mut().zip(rounded) {
        *code = rounded as i8;
    }
    let mut halves = [0i32; 2];
    for (half, rounded) in halves.iter_mut().zip(rounded.as_chunks::<{ CHUNK / 2 }>().0) {
        for rounded in rounded {
            *half += rounded;
        }
    }
    *sums = halves.map(|half| half as i16);
    let d = max_magnitude / 127.0;
    *scale = [d, d * f32::from(sums[0] + sums[1])];
}
