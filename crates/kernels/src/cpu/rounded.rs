//! Activations that are rounded to the requested precision. The threads of a backend round them.

use super::codes::activations::{Activations, RowCodes, max_outliers};
use super::codes::layout::CHUNK;
use super::codes::outliers::{Outlier, Outliers};
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Backend, Precision};

/// Rows of activations that are rounded to a [`Precision`]. A chunk is 32 consecutive values of a row.
pub(crate) struct Rounded {
    /// Number of values in a row of activations.
    columns: usize,
    /// The 8-bit codes: one row of codes per row of activations. With [`Precision::Int16`] there are two consecutive
    /// rows of codes per row of activations.
    codes: Buffer,
    /// The data of [`Activations::scales`].
    scales: Buffer,
    /// The data of [`Activations::sums`].
    sums: Buffer,
    /// The values that [`Precision::Int8Outliers`] does not round to codes; `None` if no row has such a value.
    pub outliers: Option<Outliers>,
    /// Number of rows of activations.
    pub rows: usize,
}

impl Rounded {
    /// Rounds rows of `columns` floats. `columns` is a multiple of 32. If a value of a chunk is not finite, the scale
    /// of this chunk is not finite.
    pub fn new(backend: &Backend, x: &[f32], columns: usize, precision: Precision) -> Self {
        let rows = x.len() / columns;
        let code_rows_per_row = if precision == Precision::Int16 { 2 } else { 1 };
        let code_count = code_rows_per_row * rows * columns;
        let [mut codes, mut scales, mut sums] =
            [code_count / size_of::<f32>(), 2 * code_count / CHUNK, code_count / CHUNK].map(Buffer::take);
        let row_capacity = if precision == Precision::Int8Outliers { max_outliers(columns) } else { 0 };
        let mut outlier_entries = Buffer::take(rows * row_capacity * 2);
        let mut counts = vec![0u32; rows];
        {
            let chunks = columns / CHUNK;
            let codes_out: &mut [i8] = bytemuck::cast_slice_mut(&mut codes);
            let scales: &mut [[f32; 2]] = bytemuck::cast_slice_mut(&mut scales);
            let sums: &mut [[i16; 2]] = bytemuck::cast_slice_mut(&mut sums);
            let (codes_out, scales, sums) = (Shared::new(codes_out), Shared::new(scales), Shared::new(sums));
            let outliers: &mut [Outlier] = bytemuck::cast_slice_mut(&mut outlier_entries);
            let (outliers, counts_out) = (Shared::new(outliers), Shared::new(&mut counts));
            // SAFETY: each task rounds one row and writes only the codes and outliers of this row.
            let row_codes = |row: usize| unsafe {
                RowCodes {
                    codes: codes_out.part(row * columns, columns),
                    scales: scales.part(row * chunks, chunks),
                    sums: sums.part(row * chunks, chunks),
                }
            };
            let cpu = backend.cpu();
            let round_row = |row: usize| {
                let x = &x[row * columns..][..columns];
                match precision {
                    Precision::Int8 => cpu.round_int8(x, row_codes(row)),
                    Precision::Int16 => {
                        cpu.round_int16(x, [row_codes(2 * row), row_codes(2 * row + 1)]);
                    }
                    Precision::Int8Outliers => {
                        // SAFETY: each task rounds one row and writes only the codes and outliers of this row.
                        let (outliers, count) = unsafe {
                            (outliers.part(row * row_capacity, row_capacity), counts_out.part(row, 1))
                        };
                        count[0] = cpu.round_with_outliers(x, row_codes(row), outliers) as u32;
                    }
                }
            };
            if rows == 1 { round_row(0) } else { backend.pool().run(rows, &round_row) }
        }
        let outliers = (precision == Precision::Int8Outliers)
            .then(|| Outliers::new(outlier_entries, counts, row_capacity, columns))
            .filter(|outliers| !outliers.is_empty());
        Self { columns, codes, scales, sums, outliers, rows }
    }

    /// Returns the codes, their scales and their sums.
    pub fn activations(&self) -> Activations<'_> {
        Activations {
            columns: self.columns,
            codes: bytemuck::cast_slice(&self.codes),
            scales: bytemuck::cast_slice(&self.scales),
            sums: bytemuck::cast_slice(&self.sums),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn non_finite_values_give_non_finite_scales_at_any_position() {
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

    /// Half of the values are the smallest subnormal number, and the other values are zero. So the mean magnitude
    /// rounds to zero, and no value is an outlier.
    #[test]
    fn subnormal_rows_have_no_outliers() {
        let x: Vec<f32> = (0..18 * CHUNK).map(|i| f32::from_bits(u32::from(i % 2 == 0))).collect();
        for isa in Isa::available() {
            let rounded = Rounded::new(&Backend::new(isa, 1), &x, x.len(), Precision::Int8Outliers);
            assert!(rounded.outliers.is_none(), "{isa:?}");
        }
    }

    /// The codes times their scales, plus the outliers, equal the values of the row except for a rounding error. The
    /// test checks the largest rounding error of each precision.
    #[test]
    fn codes_and_outliers_add_up_to_the_row() {
        let columns = 4 * CHUNK;
        let mut x: Vec<f32> = (0..columns).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect();
        (x[3], x[70], x[71]) = (1000.0, -700.0, 3.5);
        let largest_error = |isa: Isa, precision: Precision| {
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
                sums[rounded.outliers.as_ref().unwrap().columns()[outlier.index as usize] as usize] +=
                    f64::from(outlier.value);
            }
            sums.iter().zip(&x).map(|(sum, x)| (sum - f64::from(*x)).abs()).fold(0.0, f64::max)
        };
        for isa in Isa::available() {
            assert!(largest_error(isa, Precision::Int8) > 1.0, "{isa:?}");
            assert!(largest_error(isa, Precision::Int8Outliers) < 0.015, "{isa:?}");
            assert!(largest_error(isa, Precision::Int16) < 0.02, "{isa:?}");
        }
    }

    /// The values have nearly a normal distribution, and some values are about a thousand times larger. The norm of the
    /// row's rounding error stays below 2⁻¹¹ of the norm of the row, for any number and any position of the large
    /// values.
    #[test]
    fn large_values_in_any_column_do_not_harm_the_others() {
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
                // In wide rows, very few large values do not contribute most of the norm. So at least one value in 1000
                // is large.
                let loud = loud.max(columns / 1000).max(1);
                for _ in 0..loud {
                    x[(uniform() * columns as f32) as usize] =
                        670.0 * if uniform() < 0.5 { 1.0 } else { -1.0 };
                }
                let rounded = Rounded::new(&backend, &x, columns, Precision::Int8Outliers);
                let (codes, outliers) = (rounded.activations().row(0), rounded.outliers.as_ref().unwrap());
                let mut remainder = x.clone();
                for (at, remainder) in remainder.iter_mut().enumerate() {
                    *remainder -= codes.scales[at / CHUNK][0] * f32::from(codes.codes[at]);
                }
                for outlier in outliers.of(0) {
                    remainder[outliers.columns()[outlier.index as usize] as usize] -= outlier.value;
                }
                let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let share = norm(&remainder) / norm(&x);
                assert!(share < 1.0 / 2048.0, "{columns} columns, {loud} loud: {share}");
            }
        }
    }
}
