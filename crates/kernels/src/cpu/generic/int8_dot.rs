//! Products of integer codes on instruction sets whose dot-product instruction multiplies four bytes per lane (VNNI,
//! NEON). One generic function multiplies panels of eight and of sixteen rows. If the instruction needs unsigned codes,
//! [`SimdInt8::BIAS`] is added to signed levels. The correction term of the activations subtracts the effect of this
//! bias.
//!
//! `codes/layout.rs` defines panels, chunks, superblocks and quads.
//!
//! Measurements and commands: docs/performance.md, "Kernels of integer codes".

use super::activation_rows::{Rows, SeparateRows};
use super::simd::SimdInt8;
use super::unpack::{Scales, code_bytes, level_table, quads};
use crate::cpu::codes::activations::Row;
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel};
use crate::cpu::codes::packed_activations::PackedChunk;
use crate::cpu::prefetch::prefetch_codes;

/// Returns the zero point for which the correction term of the dot products compensates; 0 if the dot products need no
/// correction.
pub(crate) fn zero_point<V: SimdInt8>(matrix: &CodeMatrix) -> i16 {
    match (matrix.code_layout, matrix.scale_layout) {
        (CodeLayout::Table(_) | CodeLayout::Bytes, _) => V::BIAS,
        (_, ScaleLayout::Block | ScaleLayout::Power | ScaleLayout::HalfGroups) => {
            matrix.code_layout.zero_point()
        }
        _ => 0,
    }
}

/// Defines `CODES`, the code kernels of an instruction set. `$simd` is the vector type of the instruction set, and
/// `$features` are its processor features. `$group` is the number of rows of activations that are packed together.
macro_rules! code_kernels {
    ($simd:ty, $features:literal, $group:literal) => {
        #[target_feature(enable = $features)]
        fn few_rows(matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
            #[target_feature(enable = $features)]
            fn multiply_panel<const T: usize>(
                matrix: &CodeMatrix,
                panel: usize,
                rows: [Row; T],
            ) -> [[f32; ROWS]; T] {
                // SAFETY: this function is compiled for `$features`, so its caller guarantees these features.
                int8_dot::separate_rows(unsafe { <$simd>::new() }, matrix, panel, rows)
            }
            assert_eq!(matrix.panel_rows, <$simd>::ROWS, "rows of a panel");
            let mut done = 0;
            while done < sums.len() {
                macro_rules! add_rows {
                    ($tokens:literal) => {{
                        let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + done + t));
                        sums[done..done + $tokens].copy_from_slice(&multiply_panel(matrix, panel, rows));
                        done += $tokens;
                    }};
                }
                match sums.len() - done {
                    1 => add_rows!(1),
                    2 | 3 => add_rows!(2),
                    _ => add_rows!(4),
                }
            }
        }

        #[target_feature(enable = $features)]
        fn multiply_packed(
            matrix: &CodeMatrix,
            panels: Range<usize>,
            packed: &[f32],
            rows: Range<usize>,
            y: &Shared<f32>,
        ) {
            #[target_feature(enable = $features)]
            fn multiply_panel(
                matrix: &CodeMatrix,
                panel: usize,
                rows: &[PackedChunk<$group>],
            ) -> [[f32; ROWS]; $group] {
                // SAFETY: this function is compiled for `$features`, so its caller guarantees these features.
                int8_dot::packed_rows(unsafe { <$simd>::new() }, matrix, panel, rows)
            }
            assert_eq!(matrix.panel_rows, <$simd>::ROWS, "rows of a panel");
            multiply_groups(matrix, panels, packed, rows, y, |panel, rows| {
                multiply_panel(matrix, panel, rows)
            });
        }

        #[target_feature(enable = $features)]
        fn add_outliers(matrix: &CodeMatrix, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
            assert_eq!(matrix.panel_rows, <$simd>::ROWS, "rows of a panel");
            // SAFETY: this function is compiled for `$features`, so its caller guarantees these features.
            generic::outliers::add(unsafe { <$simd>::new() }, matrix, panels, x, y);
        }

        /// The kernel for packed groups of rows of activations.
        pub(super) const PACKED: ManyRows = ManyRows {
            group_rows: $group,
            row_count: |_, rows| rows / $group * $group,
            zero_point: int8_dot::zero_point::<$simd>,
            pack: packed_activations::pack::<$group, false>,
            multiply: multiply_packed,
        };

        /// The code kernels of this instruction set.
        pub(super) const CODES: CodeKernels =
            CodeKernels { panel_rows: <$simd>::ROWS, many_rows: &[PACKED], few_rows, add_outliers };
    };
}

pub(crate) use code_kernels;

/// Multiplies one panel with separate rows of activations.
#[inline(always)]
pub(crate) fn separate_rows<V: SimdInt8, const T: usize>(
    simd: V,
    matrix: &CodeMatrix,
    panel: usize,
    rows: [Row; T],
) -> [[f32; ROWS]; T] {
    let (chunks, panel, layout, zero_point) =
        (matrix.chunks(), matrix.panel(panel), matrix.code_layout, zero_point::<V>(matrix));
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: the panel and the rows of activations have `chunks` chunks.
            unsafe {
                sums::<V, $codes, $scales, T>(
                    simd,
                    panel,
                    chunks,
                    SeparateRows::<T, $scales> { rows, zero_point },
                    layout,
                )
            }
        };
    }
    for_each_layout!(matrix, run)
}

/// Multiplies one panel with a packed group of rows of activations.
#[inline(always)]
pub(crate) fn packed_rows<V: SimdInt8, const T: usize>(
    simd: V,
    matrix: &CodeMatrix,
    panel: usize,
    rows: &[PackedChunk<T>],
) -> [[f32; ROWS]; T] {
    let (chunks, panel, layout) = (matrix.chunks(), matrix.panel(panel), matrix.code_layout);
    let rows = &rows[..chunks];
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: the panel has `chunks` chunks. `rows` has `chunks` chunks because of the slice above.
            unsafe { sums::<V, $codes, $scales, T>(simd, panel, chunks, rows, layout) }
        };
    }
    for_each_layout!(matrix, run)
}

/// Multiplies one panel with `T` rows of activations.
///
/// # Safety
/// The panel and the rows have `chunks` chunks. If the layout has superblock scales, `chunks` is a multiple of eight.
#[inline(always)]
unsafe fn sums<V: SimdInt8, const CODES: u8, const SCALES: u8, const T: usize>(
    simd: V,
    panel: Panel,
    chunks: usize,
    rows: impl Rows<T>,
    layout: CodeLayout,
) -> [[f32; ROWS]; T] {
    let code_bytes = code_bytes::<V, CODES>();
    let table = level_table(simd, layout);
    // If there are few rows, the two halves of a chunk have separate accumulators, so that two dependency chains run in
    // parallel. If there are many rows, the processor does not have enough registers for this.
    let separate_halves = const { T <= 2 || SCALES == HALF_GROUPS };
    // With separate accumulators, the unsigned 4-bit codes of the second half can stay in the upper nibbles. There they
    // are sixteen times larger, so the sum of the second half is divided by sixteen afterwards.
    let unshifted = const { CODES == FOUR && V::BIAS != 0 && T <= 2 };
    let mut totals = [simd.splat_float(0.0); T];
    let scales = Scales::<SCALES>(panel);
    let sum_chunks = if const { has_shared_scale(SCALES) } { SUPERBLOCK_CHUNKS } else { chunks.max(1) };
    for block_start in (0..chunks).step_by(sum_chunks) {
        let mut block_sums = [simd.splat_float(0.0); T];
        for chunk in block_start..block_start + sum_chunks {
            // SAFETY: the caller guarantees that the panel has `chunks` chunks, and `chunk` is below `chunks`.
            let codes = unsafe { panel.codes.as_ptr().add(chunk * code_bytes) };
            prefetch_codes(codes, code_bytes);
            scales.prefetch::<V>(chunk);
            // The sums of the two halves of the chunk (quads 0–3 and quads 4–7), for each row of activations.
            // These are loops, because closures would not always be compiled for the instruction set.
            let mut halves = [[simd.splat(0); 2]; T];
            for (t, halves) in halves.iter_mut().enumerate() {
                let [first, second] = rows.zero_point_correction(chunk, t);
                *halves = [simd.splat(first), simd.splat(second)];
            }
            for v in 0..4 {
                // SAFETY: all codes of the chunk are readable at `codes`.
                let (low, upper) = unsafe {
                    if unshifted {
                        quads::<V, FOUR, true>(simd, codes, v, table)
                    } else {
                        quads::<V, CODES, false>(simd, codes, v, table)
                    }
                };
                for (t, halves) in halves.iter_mut().enumerate() {
                    halves[0] = simd.dot(halves[0], low, rows.quad(chunk, t, v));
                    let second = usize::from(separate_halves);
                    halves[second] = simd.dot(halves[second], upper, rows.quad(chunk, t, v + 4));
                }
            }
            // SAFETY: the caller guarantees that the panel has `chunks` chunks, and `chunk` is below `chunks`.
            let factors = unsafe { scales.load(simd, chunk) };
            for t in 0..T {
                let [first, second] = halves[t];
                let sums = match SCALES {
                    HALF_GROUPS => [simd.to_floats(first), simd.to_floats(second)],
                    _ => {
                        let second = if unshifted { simd.divide_by_16(second) } else { second };
                        let chunk_sum = if separate_halves { simd.add(first, second) } else { first };
                        [simd.to_floats(chunk_sum), simd.splat_float(0.0)]
                    }
                };
                block_sums[t] = factors.add::<SCALES>(simd, block_sums[t], sums, rows.scales(chunk, t));
            }
        }
        if const { has_shared_scale(SCALES) } {
            let scaled_sum = |chunk: usize, t: usize| rows.scales(chunk, t)[1];
            // SAFETY: the caller guarantees that the panel has `chunks` chunks, and that `chunks` is a multiple of
            // eight because the layout has superblock scales. So the panel has all chunks of this superblock.
            unsafe {
                scales.finish_superblock::<V, T>(
                    simd,
                    block_start / SUPERBLOCK_CHUNKS,
                    &mut block_sums,
                    &mut totals,
                    scaled_sum,
                )
            };
        } else {
            totals = block_sums;
        }
    }
    let mut sums = [[0.0; ROWS]; T];
    for (sums, total) in sums.iter_mut().zip(totals) {
        *sums = simd.to_array(total);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::*;
    use crate::cpu::codes::packed_activations::{ROW_FLOATS, pack};
    use crate::cpu::reference;
    use crate::cpu::rounded::Rounded;
    use crate::{Backend, Isa, Precision};
    use bytemuck::Zeroable;
    use kvant_core::{Bytes, Shape, Tensor, format};

    // These are separate functions, because one function that contains all kernels takes minutes to compile.
    #[inline(never)]
    fn separate<const N: usize, const T: usize>(matrix: &CodeMatrix, rows: [Row; T]) -> [[f32; ROWS]; T] {
        separate_rows(Portable::<N>, matrix, 0, rows)
    }

    #[inline(never)]
    fn multiply_packed<const N: usize, const T: usize>(
        matrix: &CodeMatrix,
        rows: &[PackedChunk<T>],
    ) -> [[f32; ROWS]; T] {
        packed_rows(Portable::<N>, matrix, 0, rows)
    }

    #[test]
    fn results_equal_the_scalar_path_bit_for_bit_in_panels_of_eight_and_of_sixteen() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        let backend = Backend::new(Isa::Scalar, 1);
        for (format, grid) in format::FORMATS.iter().filter_map(|format| Some((format, format.grid()?))) {
            let columns = 512;
            let shape = Shape::new(&[16, columns]).unwrap();
            let mut stored = vec![0; format.tensor_bytes(&shape).unwrap()];
            let mut weights = numbers(16 * columns, 1);
            // All weights of the first row of the matrix have the smallest code.
            weights[..columns].fill(-1.0);
            grid.encode(&weights, None, &mut stored);
            let tensor = Tensor::new(shape, *format, Bytes::from(stored)).unwrap();
            // All values of the last row of activations have the largest code, with the same sign.
            let mut x = numbers(7 * columns, 2);
            x.resize(8 * columns, 1.0);
            let rounded = Rounded::new(&backend, &x, columns, Precision::Int8);
            let x = &rounded.activations();
            for lanes in [8, 16] {
                let matrix = CodeMatrix::new(backend.pool(), lanes, &tensor).unwrap();
                let mut expected = [[0.0; ROWS]; 8];
                reference::codes::few_rows(&matrix, 0, x, 0, &mut expected);
                macro_rules! with {
                    ($($rows:literal)*) => {
                        $({
                            let rows: [Row; $rows] = std::array::from_fn(|t| x.row(8 - $rows + t));
                            let found = match lanes {
                                8 => separate::<8, $rows>(&matrix, rows),
                                _ => separate::<16, $rows>(&matrix, rows),
                            };
                            let same = found == expected[8 - $rows..];
                            assert!(same, "{}, panels of {lanes}, {} rows", format.name(), $rows);
                        })*
                    };
                }
                with!(1 2 4);
                let halves = matrix.scale_layout == ScaleLayout::HalfGroups;
                macro_rules! packed {
                    ($lanes:literal, $rows:literal) => {{
                        let mut packed = vec![PackedChunk::<$rows>::zeroed(); matrix.chunks()];
                        let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut packed);
                        assert_eq!(floats.len(), matrix.chunks() * ROW_FLOATS * $rows);
                        let zero_point = zero_point::<Portable<$lanes>>(&matrix);
                        pack::<$rows, false>(x, 8 - $rows..8, zero_point, halves, floats);
                        multiply_packed::<$lanes, $rows>(&matrix, &packed).to_vec()
                    }};
                }
                let found = match lanes {
                    8 => packed!(8, 4),
                    _ => packed!(16, 8),
                };
                let same = found == expected[8 - found.len()..];
                assert!(same, "{}, panels of {lanes}, packed rows", format.name());
            }
        }
    }
}
