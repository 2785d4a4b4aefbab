//! Products of integer codes on instruction sets that multiply four bytes a lane at once (VNNI, NEON's dot products): one body
//! for panels of eight rows and of sixteen. Where codes have to be unsigned, [`SimdInt8::BIAS`] is added to signed levels, and
//! the sum of the activations corrects for it.
//!
//! Figures and commands: docs/performance.md, "Kernels of integer codes".

use super::activation_rows::{Rows, SeparateRows};
use super::simd::SimdInt8;
use super::unpack::{Scales, code_bytes, level_table, quads};
use crate::cpu::codes::activations::Row;
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel};
use crate::cpu::codes::packed_activations::PackedChunk;
use crate::cpu::prefetch::prefetch_codes;

/// The zero point of the codes as they are multiplied, where the products are corrected for it.
pub(crate) fn zero_point<V: SimdInt8>(matrix: &CodeMatrix) -> i16 {
    match (matrix.code_layout, matrix.scale_layout) {
        (CodeLayout::Table(_) | CodeLayout::Bytes, _) => V::BIAS,
        (_, ScaleLayout::Block | ScaleLayout::Power | ScaleLayout::HalfGroups) => {
            matrix.code_layout.zero_point()
        }
        _ => 0,
    }
}

/// The code kernels of an instruction set, `CODES`: `$simd` are its vectors, `$group` the rows of activations that are packed
/// together.
macro_rules! code_kernels {
    ($simd:ty, $features:literal, $group:literal) => {
        #[target_feature(enable = $features)]
        fn few_rows(matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
            #[target_feature(enable = $features)]
            fn of<const T: usize>(matrix: &CodeMatrix, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
                // SAFETY: this function has the instruction set's features.
                int8_dot::separate_rows(unsafe { <$simd>::new() }, matrix, panel, rows)
            }
            assert_eq!(matrix.panel_rows, <$simd>::ROWS, "rows of a panel");
            let mut at = 0;
            while at < sums.len() {
                macro_rules! put {
                    ($tokens:literal) => {{
                        let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                        sums[at..at + $tokens].copy_from_slice(&of(matrix, panel, rows));
                        at += $tokens;
                    }};
                }
                match sums.len() - at {
                    1 => put!(1),
                    2 | 3 => put!(2),
                    _ => put!(4),
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
            fn of(matrix: &CodeMatrix, panel: usize, rows: &[PackedChunk<$group>]) -> [[f32; ROWS]; $group] {
                // SAFETY: this function has the instruction set's features.
                int8_dot::packed_rows(unsafe { <$simd>::new() }, matrix, panel, rows)
            }
            assert_eq!(matrix.panel_rows, <$simd>::ROWS, "rows of a panel");
            multiply_groups(matrix, panels, packed, rows, y, |panel, rows| of(matrix, panel, rows));
        }

        #[target_feature(enable = $features)]
        fn add_outliers(matrix: &CodeMatrix, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
            assert_eq!(matrix.panel_rows, <$simd>::ROWS, "rows of a panel");
            // SAFETY: this function has the instruction set's features.
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

        /// The products with integer codes of this instruction set.
        pub(super) const CODES: CodeKernels =
            CodeKernels { panel_rows: <$simd>::ROWS, many_rows: &[PACKED], few_rows, add_outliers };
    };
}

pub(crate) use code_kernels;

/// One panel times rows of activations that lie anywhere.
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
            // SAFETY: a panel's parts and a row of activations have `chunks` chunks.
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

/// One panel times a packed group of rows of activations.
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
            // SAFETY: a panel's parts have `chunks` chunks.
            unsafe { sums::<V, $codes, $scales, T>(simd, panel, chunks, rows, layout) }
        };
    }
    for_each_layout!(matrix, run)
}

/// # Safety
/// The panel and the rows have so many chunks, a multiple of eight where eight share a scale.
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
    // Few rows have a sum for either half, so that one need not wait for the other; many have none to spare.
    let apart = const { T <= 2 || SCALES == HALF_GROUPS };
    // Unsigned codes of four bits may then stay sixteen times as large in the upper halves of bytes: their sum is divided.
    let sixteenfold = const { CODES == FOUR && V::BIAS != 0 && T <= 2 };
    let mut totals = [simd.splat_float(0.0); T];
    let scales = Scales::<SCALES>(panel);
    let run = if const { shares(SCALES) } { SHARING } else { chunks.max(1) };
    for begin in (0..chunks).step_by(run) {
        let mut run_sums = [simd.splat_float(0.0); T];
        for chunk in begin..begin + run {
            // SAFETY: the caller promises so many chunks in every part, and blocks of eight where eight share.
            let codes = unsafe { panel.codes.as_ptr().add(chunk * code_bytes) };
            prefetch_codes(codes, code_bytes);
            scales.prefetch::<V>(chunk);
            // Either half of the chunk: quads 0–3 and 4–7.
            let mut halves: [[V::Ints; 2]; T] = std::array::from_fn(|t| {
                rows.zero_point_correction(chunk, t).map(|correction| simd.splat(correction))
            });
            for v in 0..4 {
                // SAFETY: the chunk's codes lie there.
                let (low, upper) = unsafe {
                    if sixteenfold {
                        quads::<V, FOUR, true>(simd, codes, v, table)
                    } else {
                        quads::<V, CODES, false>(simd, codes, v, table)
                    }
                };
                for (t, halves) in halves.iter_mut().enumerate() {
                    halves[0] = simd.dot(halves[0], low, rows.quad(chunk, t, v));
                    let second = usize::from(apart);
                    halves[second] = simd.dot(halves[second], upper, rows.quad(chunk, t, v + 4));
                }
            }
            // SAFETY: as above.
            let factors = unsafe { scales.of(simd, chunk) };
            for t in 0..T {
                let [first, second] = halves[t];
                let sums = match SCALES {
                    HALF_GROUPS => [simd.to_floats(first), simd.to_floats(second)],
                    _ => {
                        let second = if sixteenfold { simd.divide_by_16(second) } else { second };
                        let whole = if apart { simd.add(first, second) } else { first };
                        [simd.to_floats(whole), simd.splat_float(0.0)]
                    }
                };
                run_sums[t] = factors.add::<SCALES>(simd, run_sums[t], sums, rows.scales(chunk, t));
            }
        }
        if const { shares(SCALES) } {
            let scaled = |chunk: usize, t: usize| rows.scales(chunk, t)[1];
            // SAFETY: as above.
            unsafe { scales.close::<V, T>(simd, begin / SHARING, &mut run_sums, &mut totals, scaled) };
        } else {
            totals = run_sums;
        }
    }
    totals.map(|total| simd.to_array(total))
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

    #[test]
    fn the_body_gives_the_oracles_bits_in_panels_of_eight_and_of_sixteen() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        let backend = Backend::new(Isa::Scalar, 1);
        for format in format::FORMATS.iter().filter(|format| format.grid().is_some()) {
            let columns = 512;
            let shape = Shape::new(&[16, columns]).unwrap();
            let mut stored = vec![0; format.tensor_bytes(&shape).unwrap()];
            let mut weights = numbers(16 * columns, 1);
            // One row at the lower end of its codes throughout.
            weights[..columns].fill(-1.0);
            format.encode(&weights, None, &mut stored);
            let tensor = Tensor::new(shape, *format, Bytes::from(stored)).unwrap();
            // The last row as loud as can be, all of one sign.
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
                                8 => separate_rows::<_, $rows>(Portable::<8>, &matrix, 0, rows),
                                _ => separate_rows::<_, $rows>(Portable::<16>, &matrix, 0, rows),
                            };
                            let same = found == expected[8 - $rows..];
                            assert!(same, "{}, panels of {lanes}, {} rows", format.name(), $rows);
                        })*
                    };
                }
                with!(1 2 4);
                let halves = matrix.scale_layout == ScaleLayout::HalfGroups;
                macro_rules! packed {
                    ($simd:expr, $simd_type:ty, $rows:literal) => {{
                        let mut packed = vec![PackedChunk::<$rows>::zeroed(); matrix.chunks()];
                        let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut packed);
                        assert_eq!(floats.len(), matrix.chunks() * ROW_FLOATS * $rows);
                        let zero_point = zero_point::<$simd_type>(&matrix);
                        pack::<$rows, false>(x, 8 - $rows..8, zero_point, halves, floats);
                        packed_rows::<_, $rows>($simd, &matrix, 0, &packed).to_vec()
                    }};
                }
                let found = match lanes {
                    8 => packed!(Portable::<8>, Portable<8>, 4),
                    _ => packed!(Portable::<16>, Portable<16>, 8),
                };
                let same = found == expected[8 - found.len()..];
                assert!(same, "{}, panels of {lanes}, packed rows", format.name());
            }
        }
    }
}
