//! Panels on AVX2: `vpmaddubsw` multiplies 32 codes at once and adds pairs; sums of 16 bits hold until they are full,
//! so that what follows (`vpmaddwd`, with a group's integer scale where there is one) comes once for eight quads of
//! four bits, four of five bits and two of six. Signed levels go in as their sizes, their signs on the activations.

use super::avx2_integers::{pairs, side_by_side, zero_point, zero_point_factors};
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

/// Rows of a panel.
const LANES: usize = 8;
/// Rows of activations of a group.
const GROUP: usize = 4;

/// The products with integer codes of AVX2.
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

#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows(matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    let mut at = 0;
    while at < sums.len() {
        macro_rules! put {
            ($tokens:literal) => {{
                let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                sums[at..at + $tokens].copy_from_slice(&separate_rows::<$tokens>(matrix, panel, rows));
                at += $tokens;
            }};
        }
        if sums.len() - at == 1 { put!(1) } else { put!(2) }
    }
}

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

#[target_feature(enable = "avx2,fma,f16c")]
fn add_outliers(matrix: &CodeMatrix, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    // SAFETY: this function has AVX2's features.
    outliers::add(unsafe { Eight::new() }, matrix, panels, x, y);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn separate_rows<const T: usize>(matrix: &CodeMatrix, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    let (chunks, zero_point) = (matrix.chunks(), zero_point(matrix));
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: a panel's parts and a row of activations have `chunks` chunks.
            unsafe {
                let rows = SeparateRows::<T, $scales> { rows, zero_point };
                sums::<$codes, $scales, T>(matrix.panel(panel), chunks, rows, matrix.code_layout)
            }
        };
    }
    for_each_layout!(matrix, run)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn packed_rows(matrix: &CodeMatrix, panel: usize, rows: &[PackedChunk<GROUP>]) -> [[f32; ROWS]; GROUP] {
    let chunks = matrix.chunks();
    let rows = &rows[..chunks];
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: a panel's parts have `chunks` chunks.
            unsafe { sums::<$codes, $scales, GROUP>(matrix.panel(panel), chunks, rows, matrix.code_layout) }
        };
    }
    for_each_layout!(matrix, run)
}

/// # Safety
/// The panel and the rows have so many chunks, a multiple of eight where eight share a scale.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn sums<const CODES: u8, const SCALES: u8, const T: usize>(
    panel: Panel,
    chunks: usize,
    rows: impl Rows<T>,
    layout: CodeLayout,
) -> [[f32; ROWS]; T] {
    // SAFETY: this function has AVX2's features; `dot`, which needs more, is not called.
    let simd = unsafe { Eight::new() };
    let (zero_point, table) = match layout {
        CodeLayout::Table(table) => (0, table),
        _ => (layout.zero_point(), [0; 16]),
    };
    let code_bytes = code_bytes::<Eight, CODES>();
    let all_scales = Scales::<SCALES>(panel);
    let ones = _mm256_set1_epi16(1);
    // SAFETY: sixteen bytes.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let mut totals = [_mm256_setzero_ps(); T];
    let mut run_sums = [_mm256_setzero_ps(); T];
    for chunk in 0..chunks {
        // SAFETY: the caller promises so many chunks in every part.
        let codes = unsafe { panel.codes.as_ptr().add(chunk * code_bytes) };
        let scales = all_scales.at::<Eight>(chunk);
        // What the sums of 16 bits are multiplied by as they become sums of 32.
        // SAFETY: the chunk's scales lie there.
        let factors = unsafe {
            match SCALES {
                GROUPS_AFFINE => [pairs(scales, false); 2],
                GROUPS => [pairs(scales, true); 2],
                HALF_GROUPS => [pairs(scales, true), pairs(scales.add(8), true)],
                _ => [ones; 2],
            }
        };
        let load = |at: usize| -> __m256i {
            // SAFETY: `at` lies inside the chunk's codes.
            unsafe { _mm256_loadu_si256(codes.add(at).cast()) }
        };
        let quad = |t: usize, q: usize| _mm256_set1_epi32(rows.quad(chunk, t, q));
        if T <= 2 {
            prefetch_codes(codes, code_bytes);
            all_scales.prefetch::<Eight>(chunk);
        }
        // Codes are stored without their zero point; its correction comes first.
        let mut integers: [__m256i; T] = std::array::from_fn(|t| match SCALES {
            BLOCK | POWER if !matches!(CODES, TABLE | BYTES) => {
                _mm256_set1_epi32(rows.zero_point_correction(chunk, t)[0])
            }
            _ => _mm256_setzero_si256(),
        });
        let mut parts = [[_mm256_setzero_si256(); 2]; T];
        for v in 0..4 {
            let (low, upper) = match CODES {
                BYTES => (load(32 * v), load(32 * (v + 4))),
                // SAFETY: the chunk's codes lie there.
                _ => unsafe { quads::<Eight, CODES, false>(simd, codes, v, table) },
            };
            match CODES {
                TABLE | BYTES => {
                    for (half, levels) in [low, upper].into_iter().enumerate() {
                        let sizes = _mm256_abs_epi8(levels);
                        for (t, sum) in integers.iter_mut().enumerate() {
                            let signed = _mm256_sign_epi8(quad(t, v + 4 * half), levels);
                            let pairs = _mm256_maddubs_epi16(sizes, signed);
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, factors[half]));
                        }
                    }
                }
                _ => {
                    for (t, parts) in parts.iter_mut().enumerate() {
                        let (a, b) = (
                            _mm256_maddubs_epi16(low, quad(t, v)),
                            _mm256_maddubs_epi16(upper, quad(t, v + 4)),
                        );
                        if CODES == FOUR {
                            parts[0] = _mm256_add_epi16(parts[0], _mm256_add_epi16(a, b));
                        } else {
                            parts[0] = _mm256_add_epi16(parts[0], a);
                            parts[1] = _mm256_add_epi16(parts[1], b);
                        }
                    }
                    let full = match CODES {
                        SIX => v % 2 == 1,
                        _ => v == 3,
                    };
                    if full {
                        for t in 0..T {
                            let mut sum = _mm256_madd_epi16(parts[t][0], factors[0]);
                            if CODES != FOUR {
                                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(parts[t][1], factors[1]));
                            }
                            integers[t] = _mm256_add_epi32(integers[t], sum);
                            parts[t] = [_mm256_setzero_si256(); 2];
                        }
                    }
                }
            }
        }
        // SAFETY: the chunk's scales lie there.
        let Factors { d, shift, .. } = unsafe { all_scales.of(simd, chunk) };
        let zero_point_factors = zero_point_factors(factors, zero_point);
        for t in 0..T {
            let [scale, scaled] = rows.scales(chunk, t);
            if SCALES == HALF_GROUPS {
                let [first, second] = rows.zero_point_correction(chunk, t).map(|sum| _mm256_set1_epi32(sum));
                let correction = _mm256_madd_epi16(zero_point_factors, side_by_side(first, second));
                integers[t] = _mm256_add_epi32(integers[t], correction);
            }
            let (whole, scale) = (_mm256_cvtepi32_ps(integers[t]), _mm256_set1_ps(scale));
            if const { shares(SCALES) } {
                run_sums[t] = _mm256_fmadd_ps(whole, scale, run_sums[t]);
            } else {
                totals[t] = _mm256_fmadd_ps(d, _mm256_mul_ps(whole, scale), totals[t]);
            }
            if SCALES == AFFINE {
                totals[t] = _mm256_fmadd_ps(shift, _mm256_set1_ps(scaled), totals[t]);
            }
        }
        if const { shares(SCALES) } && chunk % SHARING == SHARING - 1 {
            let scaled = |chunk: usize, t: usize| rows.scales(chunk, t)[1];
            // SAFETY: the caller promises so many chunks, eight to a block.
            unsafe {
                all_scales.close::<Eight, T>(simd, chunk / SHARING, &mut run_sums, &mut totals, scaled)
            };
        }
    }
    totals.map(|total| {
        let mut out = [0.0; ROWS];
        // SAFETY: eight numbers, of sixteen.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
        out
    })
}
