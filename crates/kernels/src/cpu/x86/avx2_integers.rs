//! Functions that the two AVX2 kernels for integer codes share: pairs of 16-bit integers, and corrections for zero
//! points.
//!
//! A panel is eight rows of a matrix, stored side by side. A chunk is 32 columns of a panel.

use crate::cpu::codes::layout::ScaleLayout;
use crate::cpu::codes::matrix::CodeMatrix;
use std::arch::x86_64::*;

/// Returns the zero point that is a factor of the packed correction terms; 0 if no correction is needed. If the halves
/// of a chunk have their own scales, the function returns 1. In this case the kernel multiplies the terms by
/// [`zero_point_factors`], which contain the zero point and the scales.
pub(super) fn zero_point(matrix: &CodeMatrix) -> i16 {
    match matrix.scale_layout {
        ScaleLayout::Block | ScaleLayout::Power => matrix.code_layout.zero_point(),
        ScaleLayout::HalfGroups => 1,
        _ => 0,
    }
}

/// Loads eight bytes, one per row of a panel. Returns in each 32-bit lane the byte of one row two times, as two 16-bit
/// integers. The bytes are signed if `signed` is true.
///
/// # Safety
/// Eight bytes are readable at `bytes`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn load_pairs(bytes: *const u8, signed: bool) -> __m256i {
    // SAFETY: the caller guarantees that eight bytes are readable.
    let bytes = unsafe { _mm_loadl_epi64(bytes.cast()) };
    let wide = if signed { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) };
    interleave(wide, wide)
}

/// Returns in each 32-bit lane the lower 16 bits of `first`, followed by the lower 16 bits of `second`. This function
/// pairs the values of the two halves of a chunk, if the halves have their own scales. The values are the scales of the
/// halves, or the sums of their activations.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn interleave(first: __m256i, second: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(first, _mm256_slli_epi32::<16>(second))
}

/// Returns, for each row of a panel, the scales of the two halves of a chunk times the zero point. The two products are
/// paired as in [`interleave`].
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn zero_point_factors([first, second]: [__m256i; 2], zero_point: i16) -> __m256i {
    _mm256_mullo_epi16(interleave(first, second), _mm256_set1_epi16(zero_point))
}
