//! Activations rounded to integers: codes of eight bits under a scale every 32 numbers, and beside them what a
//! [`crate::Precision`] keeps of what eight bits lose.
//!
//! `int8-outliers` takes a row's outliers, the numbers larger than [`OUTLIER_RATIO`] times the mean size of the row's numbers,
//! out of the codes: they are multiplied exactly (`generic/outliers.rs`), and the scale of the 31 others becomes finer. At most
//! one number in [`OUTLIER_RATIO`] can be that large (Markov's inequality). The idea that a few columns stay exact is
//! LLM.int8()'s (Dettmers et al., 2022, arXiv:2208.07339, section 3.2), which looks for columns of the whole batch;
//! here a row decides for itself, so that its result does not depend on its neighbours.
//!
//! `int16` makes a second row of codes of what the first one lost; the product with a row is the sum of both.

use super::layout::CHUNK;
use super::outliers::Outlier;
use std::hint::black_box;

/// An outlier is larger than this many times the mean size of its row's numbers.
pub(crate) const OUTLIER_RATIO: f32 = 2.5;

/// Rows of codes of eight bits.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    pub columns: usize,
    /// Codes of −127..=127.
    pub codes: &'a [i8],
    /// A chunk's scale, and the scale times the sum of its codes.
    pub scales: &'a [[f32; 2]],
    /// Sums of the codes of either half of a chunk.
    pub sums: &'a [[i16; 2]],
}

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [[f32; 2]],
    pub sums: &'a [[i16; 2]],
}

/// One row, to be written.
pub(crate) struct RowCodes<'a> {
    pub codes: &'a mut [i8],
    pub scales: &'a mut [[f32; 2]],
    pub sums: &'a mut [[i16; 2]],
}

impl Row<'_> {
    /// The negative of what a zero point of all codes of a chunk adds to their products: for each half where these have scales
    /// of their own, else the first number is for the whole chunk and the second zero.
    #[inline(always)]
    pub fn zero_point_correction(&self, chunk: usize, zero_point: i16, halves: bool) -> [i32; 2] {
        let [first, second] = self.sums[chunk].map(|sum| -i32::from(zero_point) * i32::from(sum));
        if halves { [first, second] } else { [first + second, 0] }
    }
}

impl<'a> Activations<'a> {
    /// How many rows.
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

/// Room for a row's outliers: what Markov's inequality allows, what sums of `f32` may be off, and one that is written
/// before it is known to be none.
pub(crate) fn most_outliers(columns: usize) -> usize {
    (columns as f32 / OUTLIER_RATIO) as usize + columns / 1024 + 2
}

/// Rounds a row to codes.
#[inline(always)]
pub(crate) fn round_int8(x: &[f32], row: RowCodes) {
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(row.codes.as_chunks_mut::<CHUNK>().0);
    for ((x, codes), (scale, sums)) in chunks.zip(row.scales.iter_mut().zip(row.sums)) {
        round_chunk(x, codes, scale, sums);
    }
}

/// Rounds a row to codes, and the remainder to a second row of codes.
#[inline(always)]
pub(crate) fn round_int16(x: &[f32], [first, second]: [RowCodes; 2]) {
    let of_first =
        first.codes.as_chunks_mut::<CHUNK>().0.iter_mut().zip(first.scales.iter_mut().zip(first.sums));
    let of_second =
        second.codes.as_chunks_mut::<CHUNK>().0.iter_mut().zip(second.scales.iter_mut().zip(second.sums));
    for (x, (first, second)) in x.as_chunks::<CHUNK>().0.iter().zip(of_first.zip(of_second)) {
        let (codes, (scale, sums)) = first;
        round_chunk(x, codes, scale, sums);
        let mut rest = *x;
        for (rest, code) in rest.iter_mut().zip(&*codes) {
            *rest = (-scale[0]).mul_add(f32::from(*code), *rest);
        }
        let (codes, (scale, sums)) = second;
        round_chunk(&rest, codes, scale, sums);
    }
}

/// Moves a row's outliers to `outliers`, in the order of their columns, and rounds the rest to codes. Gives the number of
/// outliers: none where a number or the sum of sizes is not finite, or where the mean size is next to zero.
#[inline(always)]
pub(crate) fn round_with_outliers(x: &[f32], row: RowCodes, outliers: &mut [Outlier]) -> usize {
    let mut sizes = [0.0f32; CHUNK];
    for x in x.as_chunks::<CHUNK>().0 {
        for (size, x) in sizes.iter_mut().zip(x) {
            *size += x.abs();
        }
    }
    let mut sum = 0.0;
    for size in sizes {
        sum += size;
    }
    let bound = sum / x.len() as f32 * OUTLIER_RATIO;
    // As bits, in which sizes stand in order and NaN is above all.
    // A subnormal bound may have been rounded by half of itself: more numbers could be above it than there is room for.
    let bound = if bound.is_normal() { bound.to_bits().cast_signed() } else { i32::MAX };
    let is_outlier = |x: f32| (x.to_bits() & 0x7fff_ffff).cast_signed() > bound;
    let mut count = 0;
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(row.codes.as_chunks_mut::<CHUNK>().0);
    for (chunk, ((x, codes), (scale, sums))) in chunks.zip(row.scales.iter_mut().zip(row.sums)).enumerate() {
        let x = black_box(x);
        let (mut rest, mut places) = ([0.0; CHUNK], 0u32);
        for (at, (rest, x)) in rest.iter_mut().zip(x).enumerate() {
            *rest = if is_outlier(*x) { 0.0 } else { *x };
            places |= u32::from(is_outlier(*x)) << at;
        }
        // Few chunks have more than four: no branch depends on how many there are.
        for _ in 0..4 {
            let place = places.trailing_zeros() as usize % CHUNK;
            outliers[count] = Outlier { place: (chunk * CHUNK + place) as u32, value: x[place] };
            count += usize::from(places != 0);
            places &= places.wrapping_sub(1);
        }
        while places != 0 {
            let place = places.trailing_zeros() as usize;
            outliers[count] = Outlier { place: (chunk * CHUNK + place) as u32, value: x[place] };
            count += 1;
            places &= places - 1;
        }
        round_chunk(&rest, codes, scale, sums);
    }
    count
}

#[inline(always)]
fn round_chunk(x: &[f32; CHUNK], codes: &mut [i8; CHUNK], scale: &mut [f32; 2], sums: &mut [i16; 2]) {
    // Vectors run inside a chunk: the compiler would gather one number each of many chunks.
    let x = black_box(x);
    // As bits, in which sizes stand in order and NaN is above all.
    let mut most = 0;
    for x in x {
        most = most.max(x.to_bits() & 0x7fff_ffff);
    }
    let most = f32::from_bits(most);
    let inverse = 127.0 / most;
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    // Sums by themselves, in integers of which vectors add pairs.
    let mut rounded = [0i32; CHUNK];
    for (code, x) in rounded.iter_mut().zip(x) {
        // A number that leaves whole ones in the last bits of what it is added to rounds to even.
        const WHOLE: f32 = 12_582_912.0;
        *code = (x * inverse + WHOLE).to_bits().cast_signed() - WHOLE.to_bits().cast_signed();
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
    let d = most / 127.0;
    *scale = [d, d * f32::from(sums[0] + sums[1])];
}
