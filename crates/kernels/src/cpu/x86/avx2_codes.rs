//! Multiplies integer codes with AVX2. `vpmaddubsw` multiplies 32 codes by 32 activations and adds pairs of products to
//! 16-bit sums. The kernel accumulates these 16-bit sums as long as they cannot overflow. `vpmaddwd` then widens the
//! sums to 32 bits. If the layout has integer scales, `vpmaddwd` also multiplies by the scale. `vpmaddwd` is needed
//! only one time per eight quads of 4-bit codes, four quads of 5-bit codes or two quads of 6-bit codes.
//!
//! The first operand of `vpmaddubsw` is unsigned. So for signed levels, the first operand is the absolute value of the
//! level, and the sign is moved to the activation.
//!
//! A panel is eight rows of the matrix, stored side by side. A chunk is 32 columns of a panel. A quad is four
//! consecutive columns of all rows of a panel. A superblock is eight chunks that share scales. The file
//! `codes/layout.rs` describes the layout.

use super::avx2_integers::{interleave, load_pairs, zero_point, zero_point_factors};
use super::avx2_transposed;
use super::simd::Eight;
use crate::cpu::codes::activations::{Activations, Row};
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel, Sums};
use crate::cpu::codes::outliers::OutliersOfRows;
use crate::cpu::codes::packed_activations::{self, PackedChunk};
use crate::cpu::generic::activation_rows::{Rows, SeparateRows, multiply_groups};
use crate::cpu::generic::outliers;
use crate::cpu::generic::unpack::{Factors, Scales, code_bytes, quads};
use crate::cpu::instruction_set::{CodeKernels, ManyRows};
use crate::cpu::prefetch::prefetch_codes;
use crate::shared::Shared;
use std::arch::x86_64::*;
use std::ops::Range;

/// Number of rows of a panel.
const LANES: usize = 8;
/// Number of rows of activations in a packed group.
const GROUP: usize = 4;

/// The AVX2 kernels for integer codes.
pub(super) const CODES: CodeKernels = CodeKernels {
    panel_rows: LANES,
    many_rows: &[
        avx2_transposed::KERNEL,
        ManyRows {
            group_rows: GROUP,
            row_count: |_, rows| rows / GROUP * GROUP,
            zero_point,
            pack: packed_activations::pack::<GROUP, false>,
            multiply: multiply_packed,
        },
    ],
    few_rows,
    add_outliers,
};

/// Multiplies panel `panel` with one or two rows of activations at a time; see [`CodeKernels::few_rows`].
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows(matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    let mut done = 0;
    while done < sums.len() {
        macro_rules! add_rows {
            ($tokens:literal) => {{
                let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + done + t));
                sums[done..done + $tokens].copy_from_slice(&separate_rows::<$tokens>(matrix, panel, rows));
                done += $tokens;
            }};
        }
        if sums.len() - done == 1 { add_rows!(1) } else { add_rows!(2) }
    }
}

/// Multiplies the panels `panels` with the packed rows of activations; see [`ManyRows::multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_packed(
    matrix: &CodeMatrix,
    panels: Range<usize>,
    packed: &[f32],
    rows: Range<usize>,
    y: &Shared<f32>,
) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    multiply_groups(matrix, panels, packed, rows, y, |panel, rows| packed_rows(matrix, panel, rows));
}

/// Adds the products of the outliers; see [`CodeKernels::add_outliers`].
#[target_feature(enable = "avx2,fma,f16c")]
fn add_outliers(matrix: &CodeMatrix, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    // SAFETY: this function has the target features AVX2, FMA and F16C.
    outliers::add(unsafe { Eight::new() }, matrix, panels, x, y);
}

/// Multiplies panel `panel` with `T` separate rows of activations.
#[target_feature(enable = "avx2,fma,f16c")]
fn separate_rows<const T: usize>(matrix: &CodeMatrix, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    let (chunks, zero_point) = (matrix.chunks(), zero_point(matrix));
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: the panel and each row of activations have `chunks` chunks.
            unsafe {
                let rows = SeparateRows::<T, $scales> { rows, zero_point };
                sums::<$codes, $scales, T>(matrix.panel(panel), chunks, rows, matrix.code_layout)
            }
        };
    }
    for_each_layout!(matrix, run)
}

/// Multiplies panel `panel` with one packed group of rows of activations.
#[target_feature(enable = "avx2,fma,f16c")]
fn packed_rows(matrix: &CodeMatrix, panel: usize, rows: &[PackedChunk<GROUP>]) -> [[f32; ROWS]; GROUP] {
    let chunks = matrix.chunks();
    let rows = &rows[..chunks];
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: the panel and the packed rows have `chunks` chunks.
            unsafe { sums::<$codes, $scales, GROUP>(matrix.panel(panel), chunks, rows, matrix.code_layout) }
        };
    }
    for_each_layout!(matrix, run)
}

/// Returns the products of one panel with `T` rows of activations: for each row of activations, one sum per row of the
/// panel.
///
/// # Safety
/// The panel and the rows of activations have `chunks` chunks. If the layout has superblock scales, `chunks` is a
/// multiple of eight.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn sums<const CODES: u8, const SCALES: u8, const T: usize>(
    panel: Panel,
    chunks: usize,
    rows: impl Rows<T>,
    layout: CodeLayout,
) -> [[f32; ROWS]; T] {
    // SAFETY: this function has the target features AVX2, FMA and F16C. `Eight::dot` also needs AVX-VNNI, but this
    // function does not call it.
    let simd = unsafe { Eight::new() };
    let (zero_point, table) = match layout {
        CodeLayout::Table(table) => (0, table),
        _ => (layout.zero_point(), [0; 16]),
    };
    let code_bytes = code_bytes::<Eight, CODES>();
    let all_scales = Scales::<SCALES>(panel);
    let ones = _mm256_set1_epi16(1);
    // SAFETY: the table has the sixteen bytes that are read.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let mut totals = [_mm256_setzero_ps(); T];
    let mut block_sums = [_mm256_setzero_ps(); T];
    for chunk in 0..chunks {
        // SAFETY: the caller guarantees that the panel has `chunks` chunks.
        let codes = unsafe { panel.codes.as_ptr().add(chunk * code_bytes) };
        let scales = all_scales.at::<Eight>(chunk);
        // The integer factors of the 16-bit sums. `vpmaddwd` multiplies the sums by these factors when it widens the
        // sums to 32 bits.
        // SAFETY: the panel has this chunk, so all scales of the chunk are readable at `scales`.
        let factors = unsafe {
            match SCALES {
                GROUPS_AFFINE => [load_pairs(scales, false); 2],
                GROUPS => [load_pairs(scales, true); 2],
                HALF_GROUPS => [load_pairs(scales, true), load_pairs(scales.add(8), true)],
                _ => [ones; 2],
            }
        };
        let load = |at: usize| -> __m256i {
            // SAFETY: `at` is an offset inside the chunk's codes.
            unsafe { _mm256_loadu_si256(codes.add(at).cast()) }
        };
        let quad = |t: usize, q: usize| _mm256_set1_epi32(rows.quad(chunk, t, q));
        if T <= 2 {
            prefetch_codes(codes, code_bytes);
            all_scales.prefetch::<Eight>(chunk);
        }
        // A stored code is the level plus the zero point. So the sum starts with a correction for the zero point.
        let mut integers: [__m256i; T] = std::array::from_fn(|t| match SCALES {
            BLOCK | POWER if !matches!(CODES, TABLE | BYTES) => {
                _mm256_set1_epi32(rows.zero_point_correction(chunk, t)[0])
            }
            _ => _mm256_setzero_si256(),
        });
        let mut partial_sums = [[_mm256_setzero_si256(); 2]; T];
        for v in 0..4 {
            let (low, upper) = match CODES {
                BYTES => (load(32 * v), load(32 * (v + 4))),
                // SAFETY: the panel has this chunk, so all its codes are readable at `codes`.
                _ => unsafe { quads::<Eight, CODES, false>(simd, codes, v, table) },
            };
            match CODES {
                TABLE | BYTES => {
                    for (half, levels) in [low, upper].into_iter().enumerate() {
                        let magnitudes = _mm256_abs_epi8(levels);
                        for (t, sum) in integers.iter_mut().enumerate() {
                            let signed = _mm256_sign_epi8(quad(t, v + 4 * half), levels);
                            let products = _mm256_maddubs_epi16(magnitudes, signed);
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, factors[half]));
                        }
                    }
                }
                _ => {
                    for (t, partial_sums) in partial_sums.iter_mut().enumerate() {
                        let (a, b) = (
                            _mm256_maddubs_epi16(low, quad(t, v)),
                            _mm256_maddubs_epi16(upper, quad(t, v + 4)),
                        );
                        if CODES == FOUR {
                            partial_sums[0] = _mm256_add_epi16(partial_sums[0], _mm256_add_epi16(a, b));
                        } else {
                            partial_sums[0] = _mm256_add_epi16(partial_sums[0], a);
                            partial_sums[1] = _mm256_add_epi16(partial_sums[1], b);
                        }
                    }
                    let full = match CODES {
                        SIX => v % 2 == 1,
                        _ => v == 3,
                    };
                    if full {
                        for t in 0..T {
                            let mut sum = _mm256_madd_epi16(partial_sums[t][0], factors[0]);
                            if CODES != FOUR {
                                sum =
                                    _mm256_add_epi32(sum, _mm256_madd_epi16(partial_sums[t][1], factors[1]));
                            }
                            integers[t] = _mm256_add_epi32(integers[t], sum);
                            partial_sums[t] = [_mm256_setzero_si256(); 2];
                        }
                    }
                }
            }
        }
        // SAFETY: the panel has this chunk, so all scales of the chunk are readable at `scales`.
        let Factors { d, minimum, .. } = unsafe { all_scales.load(simd, chunk) };
        let zero_point_factors = zero_point_factors(factors, zero_point);
        for t in 0..T {
            let [scale, scaled_sum] = rows.scales(chunk, t);
            if SCALES == HALF_GROUPS {
                let [first, second] = rows.zero_point_correction(chunk, t).map(|sum| _mm256_set1_epi32(sum));
                let correction = _mm256_madd_epi16(zero_point_factors, interleave(first, second));
                integers[t] = _mm256_add_epi32(integers[t], correction);
            }
            let (chunk_sum, scale) = (_mm256_cvtepi32_ps(integers[t]), _mm256_set1_ps(scale));
            if const { has_shared_scale(SCALES) } {
                block_sums[t] = _mm256_fmadd_ps(chunk_sum, scale, block_sums[t]);
            } else {
                totals[t] = _mm256_fmadd_ps(d, _mm256_mul_ps(chunk_sum, scale), totals[t]);
            }
            if SCALES == AFFINE {
                totals[t] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(scaled_sum), totals[t]);
            }
        }
        if const { has_shared_scale(SCALES) } && chunk % SUPERBLOCK_CHUNKS == SUPERBLOCK_CHUNKS - 1 {
            let scaled_sum = |chunk: usize, t: usize| rows.scales(chunk, t)[1];
            // SAFETY: the caller guarantees that the panel has `chunks` chunks, and that these chunks are whole
            // superblocks.
            unsafe {
                all_scales.finish_superblock::<Eight, T>(
                    simd,
                    chunk / SUPERBLOCK_CHUNKS,
                    &mut block_sums,
                    &mut totals,
                    scaled_sum,
                )
            };
        }
    }
    totals.map(|total| {
        let mut out = [0.0; ROWS];
        // SAFETY: the array has sixteen floats, of which eight are written.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
        out
    })
}
