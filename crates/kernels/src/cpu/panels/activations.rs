//! Activations rounded to integers: codes of eight bits under a scale every 32 numbers, and beside them what a
//! [`Precision`] keeps of what eight bits lose.
//!
//! `int8-outliers` takes a row's outliers, the numbers larger than [`LOUDNESS`] times the mean size of the row's numbers,
//! out of the codes: they are multiplied exactly (`outliers.rs`), and the scale of the 31 others becomes finer. At most
//! one number in [`LOUDNESS`] can be that large (Markov's inequality). The idea that a few columns stay exact is
//! LLM.int8()'s (Dettmers et al., 2022, arXiv:2208.07339, section 3.2), which looks for columns of the whole batch;
//! here a row decides for itself, so that its result does not depend on its neighbours.
//!
//! `int16` makes a second row of codes of what the first one lost; the product with a row is the sum of both.

use super::CHUNK;
use super::outliers::{Outlier, Outliers};
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Backend, Precision};
use std::hint::black_box;

/// An outlier is larger than this many times the mean size of its row's numbers.
pub(super) const LOUDNESS: f32 = 2.5;

/// Rows of codes of eight bits.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    columns: usize,
    /// Codes of −127..=127.
    codes: &'a [i8],
    /// A chunk's scale, and the scale times the sum of its codes.
    scales: &'a [[f32; 2]],
    /// Sums of the codes of either half of a chunk.
    sums: &'a [[i16; 2]],
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
    codes: &'a mut [i8],
    scales: &'a mut [[f32; 2]],
    sums: &'a mut [[i16; 2]],
}

impl Row<'_> {
    /// What an offset of all codes of a chunk adds to their products, taken away: of either half where these have scales of
    /// their own, else the first is all and the other nothing.
    #[inline(always)]
    pub fn less(&self, chunk: usize, offset: i16, halves: bool) -> [i32; 2] {
        let [first, second] = self.sums[chunk].map(|sum| -i32::from(offset) * i32::from(sum));
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

/// Activations as a precision rounds them.
pub(crate) struct Rounded {
    columns: usize,
    /// Of as many rows as there are of activations, or with [`Precision::Int16`] two for each, one after the other.
    codes: Buffer,
    scales: Buffer,
    sums: Buffer,
    /// The numbers that [`Precision::Int8Outliers`] keeps out of the codes.
    pub outliers: Option<Outliers>,
    /// How many rows of activations.
    pub rows: usize,
}

impl Rounded {
    /// Rounds rows of `columns` numbers, a multiple of 32. Numbers that are not finite make their chunk's scale so.
    pub fn new(backend: &Backend, x: &[f32], columns: usize, precision: Precision) -> Self {
        let rows = x.len() / columns;
        let each = if precision == Precision::Int16 { 2 } else { 1 };
        let all = each * rows * columns;
        let [mut codes, mut scales, mut sums] =
            [all / size_of::<f32>(), 2 * all / CHUNK, all / CHUNK].map(Buffer::take);
        let most = if precision == Precision::Int8Outliers { most_outliers(columns) } else { 0 };
        let mut found = Buffer::take(rows * most * 2);
        let mut counts = vec![0u32; rows];
        {
            let chunks = columns / CHUNK;
            let numbers: &mut [i8] = bytemuck::cast_slice_mut(&mut codes);
            let scales: &mut [[f32; 2]] = bytemuck::cast_slice_mut(&mut scales);
            let sums: &mut [[i16; 2]] = bytemuck::cast_slice_mut(&mut sums);
            let (numbers, scales, sums) = (Shared::new(numbers), Shared::new(scales), Shared::new(sums));
            let outliers: &mut [Outlier] = bytemuck::cast_slice_mut(&mut found);
            let (outliers, counted) = (Shared::new(outliers), Shared::new(&mut counts));
            // SAFETY: each task has its own rows.
            let row_codes = |row: usize| unsafe {
                RowCodes {
                    codes: numbers.part(row * columns, columns),
                    scales: scales.part(row * chunks, chunks),
                    sums: sums.part(row * chunks, chunks),
                }
            };
            let operations = backend.operations();
            let work = |row: usize| {
                let x = &x[row * columns..][..columns];
                match precision {
                    Precision::Int8 => (operations.round)(x, row_codes(row)),
                    Precision::Int16 => {
                        (operations.round_twice)(x, [row_codes(2 * row), row_codes(2 * row + 1)]);
                    }
                    Precision::Int8Outliers => {
                        // SAFETY: as above.
                        let (outliers, count) =
                            unsafe { (outliers.part(row * most, most), counted.part(row, 1)) };
                        count[0] = (operations.round_rest)(x, row_codes(row), outliers) as u32;
                    }
                }
            };
            if rows == 1 { work(0) } else { backend.pool().run(rows, &work) }
        }
        let outliers = (precision == Precision::Int8Outliers)
            .then(|| Outliers::new(found, counts, most, columns))
            .filter(|outliers| !outliers.is_empty());
        Self { columns, codes, scales, sums, outliers, rows }
    }

    /// The codes.
    pub fn activations(&self) -> Activations<'_> {
        Activations {
            columns: self.columns,
            codes: bytemuck::cast_slice(&self.codes),
            scales: bytemuck::cast_slice(&self.scales),
            sums: bytemuck::cast_slice(&self.sums),
        }
    }
}

/// Room for a row's outliers: what Markov's inequality allows, what sums of `f32` may be off, and one that is written
/// before it is known to be none.
fn most_outliers(columns: usize) -> usize {
    (columns as f32 / LOUDNESS) as usize + columns / 1024 + 2
}

/// One row becomes codes.
#[inline(always)]
pub(crate) fn round(x: &[f32], row: RowCodes) {
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(row.codes.as_chunks_mut::<CHUNK>().0);
    for ((x, codes), (scale, sums)) in chunks.zip(row.scales.iter_mut().zip(row.sums)) {
        round_chunk(x, codes, scale, sums);
    }
}

/// One row becomes codes, and what these lost becomes more of them.
#[inline(always)]
pub(crate) fn round_twice(x: &[f32], [first, second]: [RowCodes; 2]) {
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

/// One row's outliers go to `outliers`, by columns, and what is left becomes codes. Says how many outliers there are:
/// none where a number or the sum of sizes is not finite, or where the mean size is next to zero.
#[inline(always)]
pub(crate) fn round_rest(x: &[f32], row: RowCodes, outliers: &mut [Outlier]) -> usize {
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
    let bound = sum / x.len() as f32 * LOUDNESS;
    // As bits, in which sizes stand in order and NaN is above all.
    // A subnormal bound may have been rounded by half of itself: more numbers could be above it than there is room for.
    let bound = if bound.is_normal() { bound.to_bits().cast_signed() } else { i32::MAX };
    let is_loud = |x: f32| (x.to_bits() & 0x7fff_ffff).cast_signed() > bound;
    let mut count = 0;
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(row.codes.as_chunks_mut::<CHUNK>().0);
    for (chunk, ((x, codes), (scale, sums))) in chunks.zip(row.scales.iter_mut().zip(row.sums)).enumerate() {
        let x = black_box(x);
        let (mut rest, mut places) = ([0.0; CHUNK], 0u32);
        for (at, (rest, x)) in rest.iter_mut().zip(x).enumerate() {
            *rest = if is_loud(*x) { 0.0 } else { *x };
            places |= u32::from(is_loud(*x)) << at;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn what_is_not_finite_stays_so_wherever_it_stands() {
        for (isa, precision) in Isa::available().into_iter().flat_map(|isa| Precision::ALL.map(|p| (isa, p)))
        {
            let backend = Backend::new(isa, 1);
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [0, 5, CHUNK - 1] {
                    let mut x: Vec<f32> = (0..2 * CHUNK).map(|i| i as f32 - 20.0).collect();
                    x[place] = bad;
                    let rounded = Rounded::new(&backend, &x, 2 * CHUNK, precision);
                    let [damaged, sound] = [0, 1].map(|chunk| rounded.activations().row(0).scales[chunk][0]);
                    assert!(!damaged.is_finite() && sound == 43.0 / 127.0, "{isa:?}, {bad} at {place}");
                }
            }
        }
    }

    /// Half of a row at the smallest subnormal number: the mean rounds to zero, and no number is an outlier.
    #[test]
    fn subnormal_rows_have_no_outliers() {
        let x: Vec<f32> = (0..18 * CHUNK).map(|i| f32::from_bits(u32::from(i % 2 == 0))).collect();
        for isa in Isa::available() {
            let rounded = Rounded::new(&Backend::new(isa, 1), &x, x.len(), Precision::Int8Outliers);
            assert!(rounded.outliers.is_none(), "{isa:?}");
        }
    }

    /// A row with outliers loses next to nothing: each precision's codes and outliers add up to the numbers.
    #[test]
    fn rows_are_what_their_codes_and_outliers_add_up_to() {
        let columns = 4 * CHUNK;
        let mut x: Vec<f32> = (0..columns).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect();
        (x[3], x[70], x[71]) = (1000.0, -700.0, 3.5);
        let largest_loss = |isa: Isa, precision: Precision| {
            let rounded = Rounded::new(&Backend::new(isa, 1), &x, columns, precision);
            let mut sums = vec![0.0f64; columns];
            let codes = rounded.activations();
            for row in 0..codes.rows() {
                let row = codes.row(row);
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum += f64::from(row.scales[at / CHUNK][0]) * f64::from(row.codes[at]);
                }
            }
            for outlier in rounded.outliers.iter().flat_map(|outliers| outliers.of(0)) {
                sums[rounded.outliers.as_ref().unwrap().columns()[outlier.place as usize] as usize] +=
                    f64::from(outlier.value);
            }
            sums.iter().zip(&x).map(|(sum, x)| (sum - f64::from(*x)).abs()).fold(0.0, f64::max)
        };
        for isa in Isa::available() {
            assert!(largest_loss(isa, Precision::Int8) > 1.0, "{isa:?}");
            assert!(largest_loss(isa, Precision::Int8Outliers) < 0.015, "{isa:?}");
            assert!(largest_loss(isa, Precision::Int16) < 0.02, "{isa:?}");
        }
    }

    /// Nearly normal numbers, some of which are a thousand times as large: wherever these stand, however many there are, the
    /// row loses no more than 2⁻¹¹ of its norm.
    #[test]
    fn loud_numbers_in_any_columns_cost_the_others_nothing() {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let backend = Backend::new(Isa::best(), 1);
        for columns in [64, 576, 1536, 2048, 4096] {
            for loud in [1, 3, columns / 100, columns / 30, columns / 8] {
                let mut x: Vec<f32> =
                    (0..columns).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
                // Few loud numbers in many columns are not what makes most of the norm.
                let loud = loud.max(columns / 1000).max(1);
                for _ in 0..loud {
                    x[(uniform() * columns as f32) as usize] =
                        670.0 * if uniform() < 0.5 { 1.0 } else { -1.0 };
                }
                let rounded = Rounded::new(&backend, &x, columns, Precision::Int8Outliers);
                let (codes, outliers) = (rounded.activations().row(0), rounded.outliers.as_ref().unwrap());
                let mut rest = x.clone();
                for (at, rest) in rest.iter_mut().enumerate() {
                    *rest -= codes.scales[at / CHUNK][0] * f32::from(codes.codes[at]);
                }
                for outlier in outliers.of(0) {
                    rest[outliers.columns()[outlier.place as usize] as usize] -= outlier.value;
                }
                let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let share = norm(&rest) / norm(&x);
                assert!(share < 1.0 / 2048.0, "{columns} columns, {loud} loud: {share}");
            }
        }
    }
}
