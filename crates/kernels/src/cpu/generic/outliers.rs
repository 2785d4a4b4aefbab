//! Products of outliers: a few activations per row that are not rounded. Each outlier is multiplied by the column of
//! the matrix that has the same index. `codes/layout.rs` defines panels, chunks and superblocks.
//!
//! ```text
//! for each group of adjacent panels:
//!     for each segment of the columns:
//!         for each row of activations: sums += outlier · weights of its column, column after column
//!     results += sums
//! ```
//!
//! `sums` are the sums of one row of activations for the rows of the panels. Up to [`FEW_ROWS`] rows decode the columns of
//! their own outliers ([`add_single_row`], [`add_few_rows`]). For more rows, all columns of a segment that have outliers are
//! decoded and stored before the rows use them ([`add_rows`]).
//!
//! A decoded weight has the same bits as in the scalar kernels. First the product of the scales of the row is rounded
//! to `f32`; after that, this product is multiplied by the level. A sum contains only the outliers of its own row of
//! activations, so the result does not depend on the outliers of other rows.

use super::columns::Columns;
use super::simd::SimdInt8;
use super::unpack::{SharedScale, WeightScale, columns_of_scale};
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, DECODED_ROWS};
use crate::cpu::codes::outliers::{
    ColumnPosition, FEW_ROWS, Outlier, Outliers, OutliersOfRows, PlacedOutlier,
};
use crate::cpu::prefetch::{PREFETCH_DISTANCE, prefetch};
use crate::scratch::Buffer;
use crate::shared::Shared;
use std::ops::Range;

/// Number of panels that are decoded at the same time for one row of activations. The place of an outlier's column is
/// read one time for all of them.
pub(crate) const SINGLE_ROW_PANELS: usize = 4;
/// Number of panels that are multiplied at the same time for at most [`FEW_ROWS`] rows of activations.
const FEW_ROWS_PANELS: usize = 4;
/// Number of columns of a segment for at most [`FEW_ROWS`] rows of activations, a multiple of a superblock. The codes and
/// scales of a segment stay in the first-level cache while all rows use them.
const FEW_ROWS_SEGMENT: usize = 256;
/// Maximum number of columns of a segment. The decoded weights of a segment fit in the second-level cache. All rows of
/// activations are read again for each segment, so shorter segments would be slower.
const SEGMENT_COLUMNS: usize = 768;
/// Distance, in number of rows of activations, at which results are prefetched.
const PREFETCH_ROWS: usize = 6;
/// Calls `$function::<V, CODES, SCALES, P>(simd, matrix, first panel, …)` for groups of `P` adjacent panels, until all
/// panels are done. `P` is at most `$max_panels`.
macro_rules! for_panel_groups {
    ($matrix:ident, $panels:ident, $max_panels:expr, $function:ident, $arguments:tt) => {{
        macro_rules! run {
            ($codes:ident, $scales:ident) => {{
                let mut first = $panels.start;
                while first < $panels.end {
                    // SAFETY: the matrix has these panels, and it has the columns of the outliers.
                    first += unsafe {
                        match $panels.end - first {
                            8.. if const { $max_panels >= 8 } => {
                                call!($function, $codes, $scales, 8, first, $matrix, $arguments)
                            }
                            4.. => call!($function, $codes, $scales, 4, first, $matrix, $arguments),
                            _ => call!($function, $codes, $scales, 1, first, $matrix, $arguments),
                        }
                    };
                }
            }};
        }
        for_each_layout!($matrix, run)
    }};
}

/// Calls the function for `$p` panels and returns `$p`.
macro_rules! call {
    ($function:ident, $codes:ident, $scales:ident, $p:literal, $first:ident, $matrix:ident, ($simd:expr, $($argument:expr),*)) => {{
        $function::<V, $codes, $scales, $p>($simd, $matrix, $first, $($argument),*);
        $p
    }};
}

/// Adds the products of outliers with some panels to the results `y`.
#[inline(always)]
pub(crate) fn add<V: SimdInt8>(
    simd: V,
    matrix: &CodeMatrix,
    panels: Range<usize>,
    x: &OutliersOfRows,
    y: &Shared<f32>,
) {
    if x.rows.len() == 1 {
        if !x.single_row.is_empty() {
            for_panel_groups!(
                matrix,
                panels,
                SINGLE_ROW_PANELS,
                add_single_row,
                (simd, x.rows.start, &x.single_row, y)
            )
        }
    } else if x.all.is_few_rows() {
        for_panel_groups!(matrix, panels, FEW_ROWS_PANELS, add_few_rows, (simd, x.rows.clone(), x.all, y))
    } else {
        for_panel_groups!(matrix, panels, DECODED_ROWS / V::ROWS, add_rows, (simd, x.rows.clone(), x.all, y))
    }
}

/// Computes [`add`] for one row of activations and the `P` panels from `first` on. Each decoded weight is used one
/// time, so the function does not store the decoded weights.
///
/// # Safety
/// The matrix has these panels. The positions of `outliers` are positions of columns of the matrix.
#[inline(always)]
unsafe fn add_single_row<V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize>(
    simd: V,
    matrix: &CodeMatrix,
    first: usize,
    row: usize,
    outliers: &[PlacedOutlier],
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODES, SCALES, P>::new(simd, matrix, first);
    let mut sums = [simd.splat_float(0.0); P];
    // While this function multiplies, it prefetches the codes that the next products read.
    let mut next = columns.codes_end().wrapping_add(2 * PREFETCH_DISTANCE);
    // The superblock scales that were loaded last, and their offset.
    let mut shared = ([SharedScale::zero(simd); P], u32::MAX);
    for PlacedOutlier { position, value } in outliers {
        prefetch::<false>(next);
        prefetch::<false>(next.wrapping_add(64));
        next = next.wrapping_add(128);
        let value = simd.splat_float(*value);
        // SAFETY: the caller guarantees that the panels have the column at `position`.
        unsafe {
            if shared.1 != position.shared {
                shared = (columns.shared(position), position.shared);
            }
            let scales = columns.scales(position, &shared.0);
            for (sum, weight) in sums.iter_mut().zip(columns.weights(position, &scales)) {
                *sum = simd.multiply_add(value, weight, *sum);
            }
        }
    }
    add_to::<V, P>(simd, matrix, first, row, &sums, y);
}

/// Computes [`add`] for at most [`FEW_ROWS`] rows of activations and the `P` panels from `first` on. Few rows seldom have
/// outliers in the same column, so decoded weights are not stored. The scales of a segment are decoded once for all rows.
///
/// # Safety
/// The matrix has these panels, and it has the columns `x.columns`, which are all columns.
#[inline(always)]
unsafe fn add_few_rows<V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize>(
    simd: V,
    matrix: &CodeMatrix,
    first: usize,
    rows: Range<usize>,
    x: &Outliers,
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODES, SCALES, P>::new(simd, matrix, first);
    let columns_per_scale = columns_of_scale(SCALES);
    let mut sums = [[simd.splat_float(0.0); P]; FEW_ROWS];
    let mut counts = [0; FEW_ROWS];
    let mut scales = [[WeightScale::<V>::zero(simd); P]; FEW_ROWS_SEGMENT / (CHUNK / 2)];
    for start in (0..x.columns.len()).step_by(FEW_ROWS_SEGMENT) {
        let end = x.columns.len().min(start + FEW_ROWS_SEGMENT);
        for (scales, column) in scales.iter_mut().zip((start..end).step_by(columns_per_scale)) {
            let position = ColumnPosition::new::<CODES, SCALES>(column, V::ROWS);
            // SAFETY: the caller guarantees that the panels have this column.
            *scales = unsafe { columns.scales(&position, &columns.shared(&position)) };
        }
        for ((row, sums), count) in rows.clone().zip(&mut sums).zip(&mut counts) {
            let mut sums_of_row = *sums;
            for Outlier { index, value } in &x.of(row)[*count..] {
                let column = *index as usize;
                if column >= end {
                    break;
                }
                let position = ColumnPosition::new::<CODES, SCALES>(column, V::ROWS);
                let (value, scales) =
                    (simd.splat_float(*value), &scales[(column - start) / columns_per_scale]);
                // SAFETY: the caller guarantees that the panels have this column.
                let weights = unsafe { columns.weights(&position, scales) };
                for (sum, weight) in sums_of_row.iter_mut().zip(weights) {
                    *sum = simd.multiply_add(value, weight, *sum);
                }
                *count += 1;
            }
            *sums = sums_of_row;
        }
    }
    for (row, sums) in rows.zip(&sums).filter(|(row, _)| !x.of(*row).is_empty()) {
        add_to::<V, P>(simd, matrix, first, row, sums, y);
    }
}

/// Computes [`add`] for several rows of activations and the `P` panels from `first` on.
///
/// # Safety
/// The matrix has these panels. The indices of the outliers are below `x.columns.len()`, and the matrix has the columns
/// `x.columns`.
#[inline(always)]
unsafe fn add_rows<V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize>(
    simd: V,
    matrix: &CodeMatrix,
    first: usize,
    rows: Range<usize>,
    x: &Outliers,
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODES, SCALES, P>::new(simd, matrix, first);
    let width = P * V::ROWS;
    let columns_per_scale = columns_of_scale(SCALES) as u32;
    let mut weights = Buffer::take(SEGMENT_COLUMNS.min(x.columns.len()) * width);
    let segments = x.columns.len().div_ceil(SEGMENT_COLUMNS);
    // If there are several segments: for each row of activations, the sums so far and the number of outliers that were
    // multiplied so far.
    let mut stored_sums = Buffer::take(if segments > 1 { rows.len() * width } else { 0 });
    let mut stored_counts = vec![0usize; if segments > 1 { rows.len() } else { 0 }];
    for (segment, segment_columns) in x.columns.chunks(SEGMENT_COLUMNS).enumerate() {
        let mut target = &mut weights[..];
        for group in segment_columns.chunk_by(|a, b| a / columns_per_scale == b / columns_per_scale) {
            let (group_weights, remaining_weights) = target.split_at_mut(group.len() * width);
            // SAFETY: the caller guarantees that the panels have these columns. All columns of a group have the same
            // scale.
            unsafe { columns.decode(group, group_weights) };
            target = remaining_weights;
        }
        let segment_start = segment * SEGMENT_COLUMNS;
        let segment_end = (segment_start + segment_columns.len()) as u32;
        for (i, row) in rows.clone().enumerate() {
            let outliers = x.of(row);
            if segment + 1 == segments && i + PREFETCH_ROWS < rows.len() {
                prefetch_results::<V, P>(matrix, first, row + PREFETCH_ROWS, y);
            }
            let mut done = if segment > 0 { stored_counts[i] } else { 0 };
            // SAFETY: `stored_sums` has `width` floats per row of activations. `weights` has `width` floats per column
            // of the segment, and the column of the outlier is in the segment.
            unsafe {
                let mut sums = match segment {
                    0 => [simd.splat_float(0.0); P],
                    _ => load_vectors(simd, &stored_sums[i * width..][..width]),
                };
                while let Some(outlier) = outliers.get(done)
                    && outlier.index < segment_end
                {
                    let value = simd.splat_float(outlier.value);
                    let from = weights.as_ptr().add((outlier.index as usize - segment_start) * width);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.multiply_add(value, simd.load_floats(from.add(p * V::ROWS)), *sum);
                    }
                    done += 1;
                }
                if segment + 1 < segments {
                    let target = stored_sums[i * width..][..width].as_mut_ptr();
                    for (p, sum) in sums.into_iter().enumerate() {
                        simd.store_floats(sum, target.add(p * V::ROWS));
                    }
                    stored_counts[i] = done;
                } else if !outliers.is_empty() {
                    add_to::<V, P>(simd, matrix, first, row, &sums, y);
                }
            }
        }
    }
}

/// Loads `P` vectors of floats.
///
/// # Safety
/// `floats` has at least `P * V::ROWS` floats.
#[inline(always)]
unsafe fn load_vectors<V: SimdInt8, const P: usize>(simd: V, floats: &[f32]) -> [V::Floats; P] {
    let mut loaded = [simd.splat_float(0.0); P];
    for (p, loaded) in loaded.iter_mut().enumerate() {
        // SAFETY: the caller guarantees that `floats` has the floats of vector `p`.
        *loaded = unsafe { simd.load_floats(floats.as_ptr().add(p * V::ROWS)) };
    }
    loaded
}

/// Prefetches the results of the `P` panels from `first` on for row `row` of the activations. The hardware does not
/// prefetch them, because the results of different rows are far apart in memory.
#[inline(always)]
fn prefetch_results<V: SimdInt8, const P: usize>(
    matrix: &CodeMatrix,
    first: usize,
    row: usize,
    y: &Shared<f32>,
) {
    let all = matrix.rows;
    // SAFETY: each task has its own panels, so no other task has this part. The code only takes its address.
    let results = unsafe { y.part(row * all + first * V::ROWS, 1) }.as_ptr();
    for line in (0..P * V::ROWS).step_by(16) {
        prefetch::<true>(results.wrapping_add(line).cast());
    }
    prefetch::<true>(results.wrapping_add(P * V::ROWS - 1).cast());
}

/// Adds `sums` to the results of the `P` panels from `first` on for row `row` of the activations.
#[inline(always)]
fn add_to<V: SimdInt8, const P: usize>(
    simd: V,
    matrix: &CodeMatrix,
    first: usize,
    row: usize,
    sums: &[V::Floats; P],
    y: &Shared<f32>,
) {
    let all = matrix.rows;
    let start = first * V::ROWS;
    let count = (P * V::ROWS).min(all - start);
    // SAFETY: each task has its own panels, so no other task accesses these results.
    let out = unsafe { y.part(row * all + start, count) };
    for (sums, out) in sums.iter().zip(out.chunks_mut(V::ROWS)) {
        if out.len() == V::ROWS {
            // SAFETY: `out` has one float per lane. (The product with 1 is exact, so this is an addition.)
            unsafe {
                simd.store_floats(
                    simd.multiply_add(*sums, simd.splat_float(1.0), simd.load_floats(out.as_ptr())),
                    out.as_mut_ptr(),
                )
            };
        } else {
            out.iter_mut().zip(simd.to_array(*sums)).for_each(|(out, sum)| *out += sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::reference;
    use crate::cpu::rounded::Rounded;
    use crate::{Backend, Isa, Precision};
    use kvant_core::{Bytes, Shape, Tensor, format};

    /// Tests the instruction sets of this machine, with one row of activations, with a few and with many.
    #[test]
    fn results_equal_the_scalar_path_bit_for_bit() {
        let floats = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        let backends: Vec<Backend> = Isa::available().into_iter().map(|isa| Backend::new(isa, 1)).collect();
        let (rows, columns, n) = (70, 512, 150);
        for (format, grid) in format::FORMATS.iter().filter_map(|format| Some((format, format.grid()?))) {
            let shape = Shape::new(&[rows, columns]).unwrap();
            let mut stored = vec![0; format.tensor_bytes(&shape).unwrap()];
            grid.encode(&floats(rows * columns, 1), None, &mut stored);
            let tensor = Tensor::new(shape, *format, Bytes::from(stored)).unwrap();
            let mut x = floats(n * columns, 2);
            // Every row has outliers, except the second row.
            x.iter_mut().step_by(101).for_each(|x| *x *= 50.0);
            x[columns..2 * columns].fill(0.5);
            for (backend, n) in backends.iter().flat_map(|backend| [1, 3, 40, n].map(|n| (backend, n))) {
                let cpu = backend.cpu();
                let rounded = Rounded::new(backend, &x[..n * columns], columns, Precision::Int8Outliers);
                let found = rounded.outliers.as_ref().unwrap();
                let matrix = CodeMatrix::new(backend.pool(), cpu.panel_rows(), &tensor).unwrap();
                let panels = 0..matrix.panels();
                let mut expected = floats(n * rows, 3);
                let mut given = expected.clone();
                let of_rows = OutliersOfRows::new(&matrix, found, 0..n);
                reference::codes::add_outliers(
                    &matrix,
                    panels.clone(),
                    &of_rows,
                    &Shared::new(&mut expected),
                );
                cpu.add_outliers(&matrix, panels, &of_rows, &Shared::new(&mut given));
                assert!(given == expected, "{}, {}, {n} rows", format.name(), backend.isa().name());
                // The results are also close to the exact products of the decoded weights with the outliers.
                let decoded = tensor.decode();
                let row = n - 1;
                for (at, y) in given[row * rows..].iter().enumerate() {
                    let exact: f64 = found
                        .of(row)
                        .iter()
                        .map(|o| (o.value, found.columns()[o.index as usize] as usize))
                        .map(|(value, column)| f64::from(value) * f64::from(decoded[at * columns + column]))
                        .sum();
                    let before = f64::from(floats(n * rows, 3)[row * rows + at]);
                    assert!((f64::from(*y) - before - exact).abs() < 1e-2, "{}: {y}", format.name());
                }
            }
        }
    }
}
