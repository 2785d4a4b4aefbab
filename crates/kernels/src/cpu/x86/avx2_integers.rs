//! What both code kernels of AVX2 share: pairs of integers of 16 bits, and corrections for zero points.

use crate::cpu::codes::layout::ScaleLayout;
use crate::cpu::codes::matrix::CodeMatrix;
use std::arch::x86_64::*;

/// The zero point that corrections are made for. Where halves of a chunk have scales of their own, corrections are made for 1,
/// and the zero point itself comes with these scales.
pub(super) fn zero_point(matrix: &CodeMatrix) -> i16 {
    match matrix.scale_layout {
        ScaleLayout::Block | ScaleLayout::Power => matrix.code_layout.zero_point(),
        ScaleLayout::HalfGroups => 1,
        _ => 0,
    }
}

/// Each lane a pair of the 16-bit integer that the byte of its row is.
///
/// # Safety
/// Eight bytes lie there.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn pairs(bytes: *const u8, signed: bool) -> __m256i {
    // SAFETY: the caller promises eight bytes.
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

/// Two halves' scales times the zero point, as `side_by_side`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn zero_point_factors([first, second]: [__m256i; 2], zero_point: i16) -> __m256i {
    _mm256_mullo_epi16(side_by_side(first, second), _mm256_set1_epi16(zero_point))
}
