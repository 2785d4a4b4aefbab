//! Panels on AVX2: `vpmaddubsw` multiplies 32 codes at once and adds pairs; sums of 16 bits hold until they are full,
//! so that what follows (`vpmaddwd`, with a group's integer scale where there is one) comes once for eight quads of
//! four bits, four of five bits and two of six. Signed levels go in as their sizes, their signs on the activations.

use super::activations::Row;
use super::chunk::{Factors, Scales, code_bytes, quads};
use super::kinds::*;
use super::outliers::{self, Outliers, OutliersOfRows};
use super::rows::{Apart, Rows, groups};
use super::together::Together;
use super::vnni::Eight;
use super::{Activations, Coding, Panel, Panels, ROWS, SHARING, Scheme, Sums};
use crate::cpu::ask_ahead;
use crate::cpu::tokens::Avx2;
use crate::shared::Shared;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a panel.
const LANES: usize = 8;
/// Rows of activations that are multiplied together.
const TOGETHER: usize = 4;

/// As `plain::multiply`.
pub(crate) fn multiply(
    _token: Avx2,
    matrix: &Panels,
    panel: usize,
    x: &Activations,
    first: usize,
    sums: &mut Sums,
) {
    assert_eq!(matrix.kernel.rows(), LANES, "rows of a panel");
    let mut at = 0;
    while at < sums.len() {
        macro_rules! put {
            ($tokens:literal) => {{
                let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                // SAFETY: the token proves the features.
                let found = unsafe { apart::<$tokens>(matrix, panel, rows) };
                sums[at..at + $tokens].copy_from_slice(&found);
                at += $tokens;
            }};
        }
        if sums.len() - at == 1 { put!(1) } else { put!(2) }
    }
}

/// As `groups`.
pub(crate) fn multiply_together(
    _token: Avx2,
    matrix: &Panels,
    x: &Activations,
    from: usize,
    (y, outliers): (&Shared<f32>, Option<&Outliers>),
) -> usize {
    assert_eq!(matrix.kernel.rows(), LANES, "rows of a panel");
    // SAFETY: the token proves the features.
    let of = |panel: usize, rows: &[Together<TOGETHER>]| unsafe { together(matrix, panel, rows) };
    groups::<TOGETHER>(matrix, x, from, (y, outliers), offset(matrix), &of)
}

/// As `outliers::add`.
pub(crate) fn add_outliers(
    _token: Avx2,
    matrix: &Panels,
    panels: Range<usize>,
    x: &OutliersOfRows,
    y: &Shared<f32>,
) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn of(matrix: &Panels, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
        outliers::add::<Eight>(matrix, panels, x, y);
    }
    assert_eq!(matrix.kernel.rows(), LANES, "rows of a panel");
    // SAFETY: the token proves the features.
    unsafe { of(matrix, panels, x, y) }
}

/// What the sums of activations are multiplied by before sums of products begin with them. Where halves of a chunk have
/// scales of their own, the offset itself comes after these.
pub(super) fn offset(matrix: &Panels) -> i16 {
    match matrix.scheme {
        Scheme::Block | Scheme::Power => matrix.coding.offset(),
        Scheme::HalfGroups => 1,
        _ => 0,
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn apart<const T: usize>(matrix: &Panels, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    let (chunks, offset) = (matrix.chunks(), offset(matrix));
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel's parts and a row of activations have `chunks` chunks.
            unsafe {
                let rows = Apart::<T, $scheme> { rows, offset };
                sums::<$coding, $scheme, T>(matrix.panel(panel), chunks, rows, matrix.coding)
            }
        };
    }
    for_each_kind!(matrix, run)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn together(matrix: &Panels, panel: usize, rows: &[Together<TOGETHER>]) -> [[f32; ROWS]; TOGETHER] {
    let chunks = matrix.chunks();
    let rows = &rows[..chunks];
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel's parts have `chunks` chunks.
            unsafe { sums::<$coding, $scheme, TOGETHER>(matrix.panel(panel), chunks, rows, matrix.coding) }
        };
    }
    for_each_kind!(matrix, run)
}

/// Each lane a pair of the 16-bit integer that the byte of its row is.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn pairs(bytes: *const u8, signed: bool) -> __m256i {
    // SAFETY: the caller's: eight bytes lie there.
    let bytes = unsafe { _mm_loadl_epi64(bytes.cast()) };
    let wide = if signed { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
    side_by_side(wide, wide)
}

/// The lower 16 bits of both in each lane. Where halves of a chunk have scales of their own, these and the activations' sums
/// stand so against each other.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn side_by_side(first: __m256i, second: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(first, _mm256_slli_epi32::<16>(second))
}

/// Two halves' scales times the offset of all codes, as `side_by_side`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn less([first, second]: [__m256i; 2], offset: i16) -> __m256i {
    _mm256_mullo_epi16(side_by_side(first, second), _mm256_set1_epi16(offset))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn sums<const CODING: u8, const SCHEME: u8, const T: usize>(
    panel: Panel,
    chunks: usize,
    rows: impl Rows<T>,
    coding: Coding,
) -> [[f32; ROWS]; T] {
    let (offset, table) = match coding {
        Coding::Table(table) => (0, table),
        _ => (coding.offset(), [0; 16]),
    };
    let code_bytes = code_bytes::<Eight, CODING>();
    let all_scales = Scales::<SCHEME>(panel);
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
            match SCHEME {
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
            ask_ahead(codes, code_bytes);
            all_scales.ask_ahead::<Eight>(chunk);
        }
        // Codes are stored without their offset; what it comes to is subtracted first.
        let mut integers: [__m256i; T] = std::array::from_fn(|t| match SCHEME {
            BLOCK | POWER if !matches!(CODING, TABLE | BYTES) => _mm256_set1_epi32(rows.less(chunk, t)[0]),
            _ => _mm256_setzero_si256(),
        });
        let mut parts = [[_mm256_setzero_si256(); 2]; T];
        for v in 0..4 {
            let (low, upper) = match CODING {
                BYTES => (load(32 * v), load(32 * (v + 4))),
                // SAFETY: the chunk's codes lie there.
                _ => unsafe { quads::<Eight, CODING, false>(codes, v, table) },
            };
            match CODING {
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
                        if CODING == FOUR {
                            parts[0] = _mm256_add_epi16(parts[0], _mm256_add_epi16(a, b));
                        } else {
                            parts[0] = _mm256_add_epi16(parts[0], a);
                            parts[1] = _mm256_add_epi16(parts[1], b);
                        }
                    }
                    let full = match CODING {
                        SIX => v % 2 == 1,
                        _ => v == 3,
                    };
                    if full {
                        for t in 0..T {
                            let mut sum = _mm256_madd_epi16(parts[t][0], factors[0]);
                            if CODING != FOUR {
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
        let Factors { d, shift, .. } = unsafe { all_scales.of::<Eight>(chunk) };
        let less = less(factors, offset);
        for t in 0..T {
            let [scale, scaled] = rows.scales(chunk, t);
            if SCHEME == HALF_GROUPS {
                let [first, second] = rows.less(chunk, t).map(|sum| _mm256_set1_epi32(sum));
                let less = _mm256_madd_epi16(less, side_by_side(first, second));
                integers[t] = _mm256_add_epi32(integers[t], less);
            }
            let (whole, scale) = (_mm256_cvtepi32_ps(integers[t]), _mm256_set1_ps(scale));
            if const { shares(SCHEME) } {
                run_sums[t] = _mm256_fmadd_ps(whole, scale, run_sums[t]);
            } else {
                totals[t] = _mm256_fmadd_ps(d, _mm256_mul_ps(whole, scale), totals[t]);
            }
            if SCHEME == AFFINE {
                totals[t] = _mm256_fmadd_ps(shift, _mm256_set1_ps(scaled), totals[t]);
            }
        }
        if const { shares(SCHEME) } && chunk % SHARING == SHARING - 1 {
            let scaled = |chunk: usize, t: usize| rows.scales(chunk, t)[1];
            // SAFETY: as above; eight chunks share a block.
            unsafe { all_scales.close::<Eight, T>(chunk / SHARING, &mut run_sums, &mut totals, scaled) };
        }
    }
    totals.map(|total| {
        let mut out = [0.0; ROWS];
        // SAFETY: eight numbers, of sixteen.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
        out
    })
}
