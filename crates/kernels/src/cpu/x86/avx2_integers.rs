//! Functions that both AVX2 kernels of integer codes share: pairs of 16-bit integers, and corrections for zero points.

use crate::cpu::codes::layout::ScaleLayout;
use crate::cpu::codes::matrix::CodeMatrix;
use std::arch::x86_64::*;

/// Returns the zero point for which correction terms are packed. If the halves of a chunk have their own scales, the
/// terms are packed for 1, and [`zero_point_factors`] multiplies by the zero point together with the scales.
pub(super) fn zero_point(matrix: &CodeMatrix) -> i16 {
    match matrix.scale_layout {
        ScaleLayout::Block | ScaleLayout::Power => matrix.code_layout.zero_point(),
        ScaleLayout::HalfGroups => 1,
        _ => 0,
    }
}

/// Returns, in each lane, the byte of its row as a pair of equal 16-bit integers.
///
/// # Safety
/// Eight bytes are readable at `bytes`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn load_pairs(bytes: *const u8, signed: bool) -> __m256i {
    // SAFETY: the caller guarantees eight bytes.
    let bytes = unsafe { _mm_loadl_epi64(bytes.cast()) };
    let wide = if signed { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
    interleave(wide, wide)
}

/// Returns, in each lane, the lower 16 bits of `first` and of `second`. If the halves of a chunk have their own scales,
/// the scales and the activations' sums of both halves are paired in this way.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn interleave(first: __m256i, second: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(first, _mm256_slli_epi32::<16>(second))
}

/// Returns the scales of the two halves times the zero point, paired as in [`interleave`].
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn zero_point_factors([first, second]: [__m256i; 2], zero_point: i16) -> __m256i {
    _mm256_mullo_epi16(interleave(first, second), _mm256_set1_epi16(zero_point))
}
