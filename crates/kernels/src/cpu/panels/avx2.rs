//! Panels on AVX2: `vpmaddubsw` multiplies 32 codes at once and adds pairs; sums of 16 bits hold until they are full,
//! so that what follows (`vpmaddwd`, with a group's integer scale where there is one) comes once for eight quads of
//! four bits, four of five bits and two of six. Signed levels go in as their sizes, their signs on the activations.

use super::activations::Row;
use super::kinds::*;
use super::{Activations, CHUNK, Coding, Panel, Panels, SHARING, Scheme, Sums};
use crate::cpu::tokens::Avx2;
use crate::cpu::{ask_ahead, ask_ahead_for_scales};
use std::arch::x86_64::*;

/// Rows of a panel.
const ROWS: usize = 8;
/// Rows of activations that share what is unpacked.
const TOKENS: usize = 4;

/// As `plain::multiply`.
pub(crate) fn multiply(
    _token: Avx2,
    matrix: &Panels,
    panel: usize,
    x: &Activations,
    first: usize,
    sums: &mut Sums,
) {
    let chunks = matrix.chunks();
    let panel = matrix.panel(panel);
    assert_eq!(matrix.kernel.rows(), ROWS, "panels of eight rows");
    let mut at = 0;
    while at < sums.len() {
        macro_rules! put {
            ($tokens:literal) => {{
                let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                // SAFETY: the token proves the features; a panel's parts and a row of activations have `chunks` chunks.
                let found = unsafe { dispatch::<$tokens>(matrix, panel, chunks, rows) };
                for (sums, found) in sums[at..].iter_mut().zip(found) {
                    sums[..ROWS].copy_from_slice(&found);
                }
                at += $tokens;
            }};
        }
        match sums.len() - at {
            1 => put!(1),
            2 | 3 => put!(2),
            _ => put!(4),
        }
    }
    const { assert!(TOKENS == 4) };
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dispatch<const T: usize>(
    matrix: &Panels,
    panel: Panel,
    chunks: usize,
    rows: [Row; T],
) -> [[f32; ROWS]; T] {
    let (offset, table) = (
        matrix.coding.offset(),
        match matrix.coding {
            Coding::Table(table) => table,
            _ => [0; 16],
        },
    );
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: the caller's.
            unsafe { sums::<$coding, $scheme, T>(panel, chunks, rows, offset, table) }
        };
    }
    for_each_kind!(matrix, run)
}

/// Each lane a pair of the 16-bit integer that the byte of its row is.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn pairs(bytes: *const u8, signed: bool) -> __m256i {
    // SAFETY: the caller's: eight bytes lie there.
    let bytes = unsafe { _mm_loadl_epi64(bytes.cast()) };
    let wide = if signed { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
    // The lower half in both; of a negative one the upper is all ones already, and it is overwritten.
    _mm256_blend_epi16::<0b1010_1010>(wide, _mm256_slli_epi32::<16>(wide))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn halves(bytes: *const u8) -> __m256 {
    // SAFETY: the caller's: sixteen bytes lie there.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.cast()) })
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn sums<const CODING: u8, const SCHEME: u8, const T: usize>(
    panel: Panel,
    chunks: usize,
    rows: [Row; T],
    offset: i16,
    table: [i8; 16],
) -> [[f32; ROWS]; T] {
    let code_bytes = match CODING {
        FOUR | TABLE => 128,
        FIVE => 160,
        SIX => 192,
        _ => 256,
    };
    let scale_bytes = match SCHEME {
        GROUPS => 8,
        AFFINE => 32,
        _ => 16,
    };
    let shared_bytes = if SCHEME == GROUPS_AFFINE { 32 } else { 16 };
    let fifteen = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    // SAFETY: sixteen bytes.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let mut totals = [_mm256_setzero_ps(); T];
    let mut run_sums = [_mm256_setzero_ps(); T];
    let mut d = _mm256_setzero_ps();
    let activations = rows.map(|row| row.codes.as_ptr());
    for chunk in 0..chunks {
        // SAFETY: the caller promises so many chunks in every part.
        let (codes, scales) = unsafe {
            (panel.codes.as_ptr().add(chunk * code_bytes), panel.scales.as_ptr().add(chunk * scale_bytes))
        };
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
        let quad = |t: usize, q: usize| -> __m256i {
            // SAFETY: a row of activations has `chunks` chunks of 32.
            let four = unsafe { activations[t].add(chunk * CHUNK + 4 * q).cast::<i32>().read_unaligned() };
            _mm256_set1_epi32(four)
        };
        if T <= 2 {
            ask_ahead(codes, code_bytes);
            ask_ahead_for_scales(scales, scale_bytes);
        }
        // Codes are stored without their offset; what it comes to is subtracted first.
        let mut integers: [__m256i; T] = std::array::from_fn(|t| match SCHEME {
            BLOCK | POWER if !matches!(CODING, TABLE | BYTES) => {
                _mm256_set1_epi32(rows[t].less(chunk, offset, false)[0])
            }
            _ => _mm256_setzero_si256(),
        });
        let high = if CODING == FIVE { load(128) } else { _mm256_setzero_si256() };
        let mut parts = [[_mm256_setzero_si256(); 2]; T];
        for v in 0..4 {
            let (low, upper) = if CODING == BYTES {
                (load(32 * v), load(32 * (v + 4)))
            } else {
                let both = load(32 * v);
                let low = _mm256_and_si256(both, fifteen);
                (low, _mm256_and_si256(_mm256_srli_epi16::<4>(both), fifteen))
            };
            match CODING {
                TABLE | BYTES => {
                    for (half, levels) in [low, upper].into_iter().enumerate() {
                        let levels =
                            if CODING == TABLE { _mm256_shuffle_epi8(table, levels) } else { levels };
                        let sizes = _mm256_abs_epi8(levels);
                        for (t, sum) in integers.iter_mut().enumerate() {
                            let signed = _mm256_sign_epi8(quad(t, v + 4 * half), levels);
                            let pairs = _mm256_maddubs_epi16(sizes, signed);
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, factors[half]));
                        }
                    }
                }
                _ => {
                    let (low, upper) = match CODING {
                        FIVE => {
                            let sixteen = _mm256_set1_epi8(16);
                            let low_bit = match v {
                                0 => _mm256_slli_epi16::<4>(high),
                                1 => _mm256_slli_epi16::<3>(high),
                                2 => _mm256_slli_epi16::<2>(high),
                                _ => _mm256_slli_epi16::<1>(high),
                            };
                            let upper_bit = match v {
                                0 => high,
                                1 => _mm256_srli_epi16::<1>(high),
                                2 => _mm256_srli_epi16::<2>(high),
                                _ => _mm256_srli_epi16::<3>(high),
                            };
                            (
                                _mm256_or_si256(low, _mm256_and_si256(low_bit, sixteen)),
                                _mm256_or_si256(upper, _mm256_and_si256(upper_bit, sixteen)),
                            )
                        }
                        SIX => {
                            let bits = _mm256_set1_epi8(0x30);
                            let shifted = |high: __m256i| match v {
                                0 => _mm256_slli_epi16::<4>(high),
                                1 => _mm256_slli_epi16::<2>(high),
                                2 => high,
                                _ => _mm256_srli_epi16::<2>(high),
                            };
                            (
                                _mm256_or_si256(low, _mm256_and_si256(shifted(load(128)), bits)),
                                _mm256_or_si256(upper, _mm256_and_si256(shifted(load(160)), bits)),
                            )
                        }
                        _ => (low, upper),
                    };
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
        unsafe {
            match SCHEME {
                BLOCK | AFFINE => d = halves(scales),
                POWER => {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(scales.cast()));
                    d = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide));
                }
                _ => {}
            }
        }
        let shift = match SCHEME {
            // SAFETY: the chunk's scales lie there.
            AFFINE => unsafe { halves(scales.add(16)) },
            _ => _mm256_setzero_ps(),
        };
        for t in 0..T {
            let [scale, scaled] = rows[t].scales[chunk];
            if SCHEME == HALF_GROUPS {
                let [first, second] = rows[t].sums[chunk];
                let sums = _mm256_set1_epi32(i32::from(first as u16) | i32::from(second) << 16);
                // Each half's scale against its sum.
                let both = _mm256_blend_epi16::<0b1010_1010>(factors[0], factors[1]);
                let subtracted = _mm256_madd_epi16(both, sums);
                let subtracted = _mm256_mullo_epi32(subtracted, _mm256_set1_epi32(i32::from(offset)));
                integers[t] = _mm256_sub_epi32(integers[t], subtracted);
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
            let block = chunk / SHARING;
            // SAFETY: as above; eight chunks share these bytes.
            let shared = unsafe { panel.shared.as_ptr().add(block * shared_bytes) };
            // SAFETY: as above.
            let d = unsafe { halves(shared) };
            for t in 0..T {
                totals[t] = _mm256_fmadd_ps(d, run_sums[t], totals[t]);
                run_sums[t] = _mm256_setzero_ps();
            }
            if SCHEME == GROUPS_AFFINE {
                // SAFETY: as above.
                let e = _mm256_xor_ps(unsafe { halves(shared.add(16)) }, _mm256_set1_ps(-0.0));
                let mut least = [_mm256_setzero_ps(); T];
                for chunk in block * SHARING..=chunk {
                    // SAFETY: as above.
                    let minimum = unsafe {
                        let minimum = panel.scales.as_ptr().add(chunk * scale_bytes + 8);
                        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(minimum.cast())))
                    };
                    for t in 0..T {
                        let scaled = _mm256_set1_ps(rows[t].scales[chunk][1]);
                        least[t] = _mm256_fmadd_ps(minimum, scaled, least[t]);
                    }
                }
                for t in 0..T {
                    totals[t] = _mm256_fmadd_ps(e, least[t], totals[t]);
                }
            }
        }
    }
    totals.map(|total| {
        let mut out = [0.0; ROWS];
        // SAFETY: eight numbers.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
        out
    })
}
