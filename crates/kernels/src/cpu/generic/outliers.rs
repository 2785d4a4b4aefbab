//! Outliers of rows of activations: few numbers that stay as they are, each times its column of the matrix.
//!
//! ```text
//! for some panels side by side (32 rows), for each segment of the columns that have outliers:
//!     weights ← these columns of these rows, decoded
//!     for each row of activations: sums += outlier · weights of its column, column after column
//! results += sums
//! ```
//!
//! A weight is what the scalar path says it is: the row's scales first, then its level. Sums run over a row's own outliers
//! alone, so that the result does not depend on which columns its neighbours have.

use super::simd::SimdInt8;
use super::unpack::{SharedScale, WeightScale, columns_of_scale};
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel};
use crate::cpu::codes::outliers::{Outliers, OutliersOfRows, Place, PlacedOutlier};
use crate::cpu::prefetch::{PREFETCH_DISTANCE, prefetch};
use crate::scratch::Buffer;
use crate::shared::Shared;
use std::ops::Range;

/// Rows of the matrix that are decoded side by side for one row of activations; for more of them twice as many.
pub(crate) const SIDE: usize = 32;
/// Columns whose weights stay in the second cache. More rows come again with fewer (SmolLM2, prompts: 256 as long again).
const SEGMENT: usize = 768;
/// Rows of activations ahead of which results are asked for.
const ROWS_AHEAD: usize = 6;
/// Calls `$of::<V, CODES, SCALES, P>(simd, matrix, first panel, …)` for all panels, `$side` of them side by side.
macro_rules! side_by_side {
    ($matrix:ident, $panels:ident, $side:expr, $of:ident, $arguments:tt) => {{
        macro_rules! run {
            ($codes:ident, $scales:ident) => {{
                let mut first = $panels.start;
                while first < $panels.end {
                    // SAFETY: the matrix has these panels, and outliers lie in its columns.
                    first += unsafe {
                        match $side.min($panels.end - first) {
                            8.. => call!($of, $codes, $scales, 8, first, $matrix, $arguments),
                            4.. => call!($of, $codes, $scales, 4, first, $matrix, $arguments),
                            2.. => call!($of, $codes, $scales, 2, first, $matrix, $arguments),
                            _ => call!($of, $codes, $scales, 1, first, $matrix, $arguments),
                        }
                    };
                }
            }};
        }
        for_each_layout!($matrix, run)
    }};
}

macro_rules! call {
    ($of:ident, $codes:ident, $scales:ident, $p:literal, $first:ident, $matrix:ident, ($simd:expr, $($argument:expr),*)) => {{
        $of::<V, $codes, $scales, $p>($simd, $matrix, $first, $($argument),*);
        $p
    }};
}

/// Adds to results with some panels what outliers come to.
#[inline(always)]
pub(crate) fn add<V: SimdInt8>(
    simd: V,
    matrix: &CodeMatrix,
    panels: Range<usize>,
    x: &OutliersOfRows,
    y: &Shared<f32>,
) {
    if x.rows.len() == 1 {
        if !x.placed.is_empty() {
            side_by_side!(matrix, panels, SIDE / V::ROWS, single, (simd, x.rows.start, &x.placed, y))
        }
    } else {
        side_by_side!(matrix, panels, 2 * SIDE / V::ROWS, several, (simd, x.rows.clone(), x.all, y))
    }
}

/// `add` for one row and `P` panels from `first` on. Nobody shares what is decoded.
///
/// # Safety
/// The matrix has the panels, and outliers were placed in its columns.
#[inline(always)]
unsafe fn single<V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize>(
    simd: V,
    matrix: &CodeMatrix,
    first: usize,
    row: usize,
    outliers: &[PlacedOutlier],
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODES, SCALES, P>::new(simd, matrix, first);
    let mut sums = [simd.splat_float(0.0); P];
    // The codes that the next products read are prefetched, so that memory is not idle.
    let mut next = columns.end().wrapping_add(2 * PREFETCH_DISTANCE);
    let mut shared = ([SharedScale::zero(simd); P], u32::MAX);
    for PlacedOutlier { place, value } in outliers {
        prefetch::<false>(next);
        prefetch::<false>(next.wrapping_add(64));
        next = next.wrapping_add(128);
        let value = simd.splat_float(*value);
        // SAFETY: the caller's promise.
        unsafe {
            if shared.1 != place.shared {
                shared = (columns.shared(place), place.shared);
            }
            let scales = columns.scales(place, &shared.0);
            for (sum, weight) in sums.iter_mut().zip(columns.weights(place, &scales)) {
                *sum = simd.multiply_add(value, weight, *sum);
            }
        }
    }
    add_to::<V, P>(simd, matrix, first, row, &sums, y);
}

/// `add` for several rows and `P` panels from `first` on.
///
/// # Safety
/// The matrix has the panels, and places and columns of outliers lie below what there are.
#[inline(always)]
unsafe fn several<V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize>(
    simd: V,
    matrix: &CodeMatrix,
    first: usize,
    rows: Range<usize>,
    x: &Outliers,
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODES, SCALES, P>::new(simd, matrix, first);
    let width = P * V::ROWS;
    let of_scale = columns_of_scale(SCALES) as u32;
    let mut weights = Buffer::take(SEGMENT.min(x.columns.len()) * width);
    let segments = x.columns.len().div_ceil(SEGMENT);
    // Sums and places on the way, where rows come again for another segment.
    let mut all_sums = Buffer::take(if segments > 1 { rows.len() * width } else { 0 });
    let mut all_done = vec![0usize; if segments > 1 { rows.len() } else { 0 }];
    for (segment, of_segment) in x.columns.chunks(SEGMENT).enumerate() {
        let mut to = &mut weights[..];
        for group in of_segment.chunk_by(|a, b| a / of_scale == b / of_scale) {
            let (now, then) = to.split_at_mut(group.len() * width);
            // SAFETY: the caller's promise.
            unsafe { columns.decode(group, now) };
            to = then;
        }
        let begin = segment * SEGMENT;
        let end = (begin + of_segment.len()) as u32;
        for (i, row) in rows.clone().enumerate() {
            let outliers = x.of(row);
            if segment + 1 == segments && i + ROWS_AHEAD < rows.len() {
                prefetch_results::<V, P>(matrix, first, row + ROWS_AHEAD, y);
            }
            let mut done = if segment > 0 { all_done[i] } else { 0 };
            // SAFETY: sums are as many numbers as panels have rows, and so are weights of each place of the segment.
            unsafe {
                let mut sums = match segment {
                    0 => [simd.splat_float(0.0); P],
                    _ => load_all(simd, &all_sums[i * width..][..width]),
                };
                while let Some(outlier) = outliers.get(done)
                    && outlier.place < end
                {
                    let value = simd.splat_float(outlier.value);
                    let from = weights.as_ptr().add((outlier.place as usize - begin) * width);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.multiply_add(value, simd.load_floats(from.add(p * V::ROWS)), *sum);
                    }
                    done += 1;
                }
                if segment + 1 < segments {
                    let to = all_sums[i * width..][..width].as_mut_ptr();
                    for (p, sum) in sums.into_iter().enumerate() {
                        simd.store_floats(sum, to.add(p * V::ROWS));
                    }
                    all_done[i] = done;
                } else if !outliers.is_empty() {
                    add_to::<V, P>(simd, matrix, first, row, &sums, y);
                }
            }
        }
    }
}

/// Numbers of `P` vectors.
///
/// # Safety
/// There are as many numbers.
#[inline(always)]
unsafe fn load_all<V: SimdInt8, const P: usize>(simd: V, numbers: &[f32]) -> [V::Floats; P] {
    let mut taken = [simd.splat_float(0.0); P];
    for (p, taken) in taken.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *taken = unsafe { simd.load_floats(numbers.as_ptr().add(p * V::ROWS)) };
    }
    taken
}

/// Asks for the results of `P` panels from `first` on with row `row`, which lie far from those of other rows.
#[inline(always)]
fn prefetch_results<V: SimdInt8, const P: usize>(
    matrix: &CodeMatrix,
    first: usize,
    row: usize,
    y: &Shared<f32>,
) {
    let all = matrix.rows;
    // SAFETY: a task has its own panels, and nothing is read.
    let results = unsafe { y.part(row * all + first * V::ROWS, 1) }.as_ptr();
    for line in (0..P * V::ROWS).step_by(16) {
        prefetch::<true>(results.wrapping_add(line).cast());
    }
    prefetch::<true>(results.wrapping_add(P * V::ROWS - 1).cast());
}

/// Adds sums to the results of `P` panels from `first` on with row `row`.
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
    // SAFETY: a task has its own panels.
    let out = unsafe { y.part(row * all + start, count) };
    for (sums, out) in sums.iter().zip(out.chunks_mut(V::ROWS)) {
        if out.len() == V::ROWS {
            // SAFETY: as many numbers. A product with one is exact.
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

/// Columns of `P` panels side by side.
struct Columns<'a, V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize> {
    simd: V,
    /// The first panel; the others follow it.
    panel: Panel<'a>,
    /// Levels, where codes stand for such.
    table: V::Ints,
    /// The negative of the codes' zero point.
    minus_zero_point: V::Ints,
}

impl<'a, V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize> Columns<'a, V, CODES, SCALES, P> {
    #[inline(always)]
    fn new(simd: V, matrix: &'a CodeMatrix, first: usize) -> Self {
        let levels = match matrix.code_layout {
            CodeLayout::Table(levels) => levels.map(i8::cast_unsigned),
            _ => [0; 16],
        };
        // The last one is there.
        let _ = matrix.panel(first + P - 1);
        let minus_zero_point = simd.splat(-i32::from(matrix.code_layout.zero_point()));
        Self { simd, panel: matrix.panel(first), table: simd.level_table(&levels), minus_zero_point }
    }

    /// Where the panels' codes end.
    fn end(&self) -> *const u8 {
        self.panel.codes.as_ptr().wrapping_add(P * self.panel.codes.len())
    }

    /// The scales that a column shares with eight chunks, of each panel.
    ///
    /// # Safety
    /// The panels have the column.
    #[inline(always)]
    unsafe fn shared(&self, place: &Place) -> [SharedScale<V>; P] {
        let simd = self.simd;
        let mut of_panels = [SharedScale::zero(simd); P];
        let shared = self.panel.shared;
        // A loop: a closure would not be compiled for the instruction set.
        for (p, of_panel) in of_panels.iter_mut().enumerate() {
            // SAFETY: the caller's; panels lie one after the other.
            *of_panel = unsafe {
                SharedScale::of::<SCALES>(
                    simd,
                    shared.as_ptr().wrapping_add(p * shared.len() + place.shared as usize),
                )
            };
        }
        of_panels
    }

    /// A column's scales, from what its eight chunks share.
    ///
    /// # Safety
    /// As of `shared`.
    #[inline(always)]
    unsafe fn scales(&self, place: &Place, shared: &[SharedScale<V>; P]) -> [WeightScale<V>; P] {
        let simd = self.simd;
        let mut of_panels = [WeightScale::zero(simd); P];
        let scales = self.panel.scales;
        for (p, (of_panel, shared)) in of_panels.iter_mut().zip(shared).enumerate() {
            // SAFETY: the caller's; panels lie one after the other.
            *of_panel = unsafe {
                WeightScale::of::<SCALES>(
                    simd,
                    scales.as_ptr().add(p * scales.len() + place.scales as usize),
                    shared,
                )
            };
        }
        of_panels
    }

    /// A column's weights, decoded.
    ///
    /// # Safety
    /// As of `shared`. The scales are this column's.
    #[inline(always)]
    unsafe fn weights(&self, place: &Place, scales: &[WeightScale<V>; P]) -> [V::Floats; P] {
        let simd = self.simd;
        let mut weights = [simd.splat_float(0.0); P];
        let codes = self.panel.codes;
        for (p, (weight, scale)) in weights.iter_mut().zip(scales).enumerate() {
            // SAFETY: the caller's; panels lie one after the other.
            unsafe {
                let codes = codes.as_ptr().add(p * codes.len());
                *weight = scale.weight::<SCALES>(simd, simd.to_floats(self.level(codes, place)));
            }
        }
        weights
    }

    /// Writes the weights of columns that have one scale, as many for each as the panels have rows.
    ///
    /// # Safety
    /// As of `shared`.
    #[inline(always)]
    unsafe fn decode(&self, columns: &[u32], weights: &mut [f32]) {
        // SAFETY: the caller's; a vector has as many numbers as a panel has rows.
        unsafe {
            let place = Place::of::<CODES, SCALES>(columns[0] as usize, V::ROWS);
            let scales = self.scales(&place, &self.shared(&place));
            for (column, to) in columns.iter().zip(weights.chunks_exact_mut(P * V::ROWS)) {
                let place = Place::of::<CODES, SCALES>(*column as usize, V::ROWS);
                for (p, weight) in self.weights(&place, &scales).into_iter().enumerate() {
                    self.simd.store_floats(weight, to.as_mut_ptr().add(p * V::ROWS));
                }
            }
        }
    }

    /// A column's levels, from the panel's codes.
    ///
    /// # Safety
    /// As of `shared`.
    #[inline(always)]
    unsafe fn level(&self, codes: *const u8, place: &Place) -> V::Ints {
        let simd = self.simd;
        // Bits from `shift` on of the vector at `offset`.
        // SAFETY: inside the panel's codes.
        let bits = |offset: u32, shift: u32, mask: i32| unsafe {
            simd.and(simd.shift_right_32(simd.load(codes.add(offset as usize)), shift), simd.splat(mask))
        };
        let signed = |byte: V::Ints| simd.add(simd.xor(byte, simd.splat(128)), simd.splat(-128));
        if CODES == BYTES {
            return signed(bits(place.codes, place.shift, 255));
        }
        let low = bits(place.codes, place.shift, 15);
        let code = match CODES {
            FIVE => simd.or(low, simd.shift_left_16::<4>(bits(place.upper, place.upper_shift, 1))),
            SIX => simd.or(low, simd.shift_left_16::<4>(bits(place.upper, place.upper_shift, 3))),
            TABLE => return signed(simd.and(simd.lookup(self.table, low), simd.splat(255))),
            _ => low,
        };
        if matches!(SCALES, AFFINE | GROUPS_AFFINE) { code } else { simd.add(code, self.minus_zero_point) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::*;
    use crate::cpu::reference;
    use crate::cpu::rounded::Rounded;
    use crate::{Backend, Isa, Precision};
    use kvant_core::{Bytes, Shape, Tensor, format};

    /// Panels of eight and of sixteen, one row and several, more columns than a segment.
    #[test]
    fn the_body_gives_the_oracles_bits() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        let backend = Backend::new(Isa::Scalar, 1);
        let (rows, columns, n) = (70, 512, 150);
        for format in format::FORMATS.iter().filter(|format| format.grid().is_some()) {
            let shape = Shape::new(&[rows, columns]).unwrap();
            let mut stored = vec![0; format.tensor_bytes(&shape).unwrap()];
            format.encode(&numbers(rows * columns, 1), None, &mut stored);
            let tensor = Tensor::new(shape, *format, Bytes::from(stored)).unwrap();
            let mut x = numbers(n * columns, 2);
            // Every row but the second has some.
            x.iter_mut().step_by(101).for_each(|x| *x *= 50.0);
            x[columns..2 * columns].fill(0.5);
            for (lanes, n) in [8, 16].into_iter().flat_map(|lanes| [1, 3, n].map(|n| (lanes, n))) {
                let rounded = Rounded::new(&backend, &x[..n * columns], columns, Precision::Int8Outliers);
                let found = rounded.outliers.as_ref().unwrap();
                let matrix = CodeMatrix::new(backend.pool(), lanes, &tensor).unwrap();
                let panels = 0..rows.div_ceil(lanes);
                let mut expected = numbers(n * rows, 3);
                let mut given = expected.clone();
                let of_rows = OutliersOfRows::new(&matrix, found, 0..n);
                reference::codes::add_outliers(
                    &matrix,
                    panels.clone(),
                    &of_rows,
                    &Shared::new(&mut expected),
                );
                match lanes {
                    8 => add(Portable::<8>, &matrix, panels, &of_rows, &Shared::new(&mut given)),
                    _ => add(Portable::<16>, &matrix, panels, &of_rows, &Shared::new(&mut given)),
                }
                assert!(given == expected, "{}, panels of {lanes}, {n} rows", format.name());
                // And what that is: the decoded weights times the outliers.
                let decoded = tensor.decode();
                let row = n - 1;
                for (at, y) in given[row * rows..].iter().enumerate() {
                    let exact: f64 = found
                        .of(row)
                        .iter()
                        .map(|o| (o.value, found.columns()[o.place as usize] as usize))
                        .map(|(value, column)| f64::from(value) * f64::from(decoded[at * columns + column]))
                        .sum();
                    let before = f64::from(numbers(n * rows, 3)[row * rows + at]);
                    assert!((f64::from(*y) - before - exact).abs() < 1e-2, "{}: {y}", format.name());
                }
            }
        }
    }
}
