//! Vectors of VNNI: `vpdpbusd` multiplies four unsigned codes with four signed activations in every lane, and adds them to a
//! sum of 32 bits, so that nothing can overflow.

use super::ROWS;
use super::vector::Vector;
use std::arch::x86_64::*;

macro_rules! vector {
    ($name:ident, $rows:literal, $integers:ty, $numbers:ty,
     $load:ident, $splat:ident, $table:ident, $and:ident, $or:ident, $xor:ident, $right:ident, $left:ident, $lookup:ident,
     $dot:ident, $add:ident, $signed:ident, $unsigned:ident, $bytes:ident, $to_numbers:ident,
     $number:ident, $to_halves:ident, $halves:ident, $widen:ident, $left32:ident, $right32:ident, $logical32:ident, $as_numbers:ident, $as_integers:ident,
     $multiply:ident, $multiply_add:ident, $store:ident, $take:ident) => {
        pub(crate) struct $name;

        // SAFETY of every block below: this type is named only by functions with the instruction set, and pointers are
        // the callers' matter, as the trait says.
        impl Vector for $name {
            type Integers = $integers;
            type Numbers = $numbers;
            const ROWS: usize = $rows;
            // `vpdpbusd` multiplies unsigned bytes with signed ones.
            const RAISE: i16 = 128;

            #[inline(always)]
            unsafe fn load(at: *const u8) -> $integers {
                // SAFETY: as above.
                unsafe { $load(at.cast()) }
            }
            #[inline(always)]
            fn splat(x: i32) -> $integers {
                // SAFETY: as above.
                unsafe { $splat(x) }
            }
            #[inline(always)]
            fn table(bytes: &[u8; 16]) -> $integers {
                // SAFETY: as above; sixteen bytes.
                unsafe { $table(_mm_loadu_si128(bytes.as_ptr().cast())) }
            }
            #[inline(always)]
            fn and(a: $integers, b: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $and(a, b) }
            }
            #[inline(always)]
            fn or(a: $integers, b: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $or(a, b) }
            }
            #[inline(always)]
            fn xor(a: $integers, b: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $xor(a, b) }
            }
            #[inline(always)]
            fn right<const N: u32>(a: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $right(a, _mm_cvtsi32_si128(N.cast_signed())) }
            }
            #[inline(always)]
            fn left<const N: u32>(a: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $left(a, _mm_cvtsi32_si128(N.cast_signed())) }
            }
            #[inline(always)]
            fn lookup(table: $integers, index: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $lookup(table, index) }
            }
            #[inline(always)]
            fn dot(sum: $integers, codes: $integers, activations: i32) -> $integers {
                // SAFETY: as above.
                unsafe { $dot(sum, codes, $splat(activations)) }
            }
            #[inline(always)]
            fn sixteenth(a: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $right32(a, _mm_cvtsi32_si128(4)) }
            }
            #[inline(always)]
            fn shifted(a: $integers, bits: u32) -> $integers {
                // SAFETY: as above.
                unsafe { $logical32(a, _mm_cvtsi32_si128(bits.cast_signed())) }
            }
            #[inline(always)]
            fn add(a: $integers, b: $integers) -> $integers {
                // SAFETY: as above.
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            unsafe fn signed(at: *const u8) -> $integers {
                // SAFETY: as above.
                unsafe { $signed($bytes(at.cast())) }
            }
            #[inline(always)]
            unsafe fn unsigned(at: *const u8) -> $integers {
                // SAFETY: as above.
                unsafe { $unsigned($bytes(at.cast())) }
            }
            #[inline(always)]
            fn numbers(a: $integers) -> $numbers {
                // SAFETY: as above.
                unsafe { $to_numbers(a) }
            }
            #[inline(always)]
            fn number(x: f32) -> $numbers {
                // SAFETY: as above.
                unsafe { $number(x) }
            }
            #[inline(always)]
            unsafe fn halves(at: *const u8) -> $numbers {
                // SAFETY: as above.
                unsafe { $to_halves($halves(at.cast())) }
            }
            #[inline(always)]
            unsafe fn upper_halves(at: *const u8) -> $numbers {
                // SAFETY: as above.
                unsafe { $as_numbers($left32($widen($halves(at.cast())), _mm_cvtsi32_si128(16))) }
            }
            #[inline(always)]
            fn multiply(a: $numbers, b: $numbers) -> $numbers {
                // SAFETY: as above.
                unsafe { $multiply(a, b) }
            }
            #[inline(always)]
            fn negative(a: $numbers) -> $numbers {
                // SAFETY: as above.
                unsafe { $as_numbers($xor($as_integers(a), $splat(i32::MIN))) }
            }
            #[inline(always)]
            fn multiply_add(a: $numbers, b: $numbers, c: $numbers) -> $numbers {
                // SAFETY: as above.
                unsafe { $multiply_add(a, b, c) }
            }
            #[inline(always)]
            fn store(a: $numbers) -> [f32; ROWS] {
                let mut out = [0.0; ROWS];
                // SAFETY: as above; the array is as long as the longest vector.
                unsafe { $store(out.as_mut_ptr(), a) };
                out
            }
            #[inline(always)]
            unsafe fn take(at: *const f32) -> $numbers {
                // SAFETY: as above.
                unsafe { $take(at) }
            }
            #[inline(always)]
            unsafe fn put(a: $numbers, at: *mut f32) {
                // SAFETY: as above.
                unsafe { $store(at, a) }
            }
        }
    };
}

vector!(
    Eight,
    8,
    __m256i,
    __m256,
    _mm256_loadu_si256,
    _mm256_set1_epi32,
    _mm256_broadcastsi128_si256,
    _mm256_and_si256,
    _mm256_or_si256,
    _mm256_xor_si256,
    _mm256_srl_epi16,
    _mm256_sll_epi16,
    _mm256_shuffle_epi8,
    _mm256_dpbusd_avx_epi32,
    _mm256_add_epi32,
    _mm256_cvtepi8_epi32,
    _mm256_cvtepu8_epi32,
    _mm_loadl_epi64,
    _mm256_cvtepi32_ps,
    _mm256_set1_ps,
    _mm256_cvtph_ps,
    _mm_loadu_si128,
    _mm256_cvtepu16_epi32,
    _mm256_sll_epi32,
    _mm256_sra_epi32,
    _mm256_srl_epi32,
    _mm256_castsi256_ps,
    _mm256_castps_si256,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps,
    _mm256_loadu_ps
);
vector!(
    Sixteen,
    16,
    __m512i,
    __m512,
    _mm512_loadu_si512,
    _mm512_set1_epi32,
    _mm512_broadcast_i32x4,
    _mm512_and_si512,
    _mm512_or_si512,
    _mm512_xor_si512,
    _mm512_srl_epi16,
    _mm512_sll_epi16,
    _mm512_shuffle_epi8,
    _mm512_dpbusd_epi32,
    _mm512_add_epi32,
    _mm512_cvtepi8_epi32,
    _mm512_cvtepu8_epi32,
    _mm_loadu_si128,
    _mm512_cvtepi32_ps,
    _mm512_set1_ps,
    _mm512_cvtph_ps,
    _mm256_loadu_si256,
    _mm512_cvtepu16_epi32,
    _mm512_sll_epi32,
    _mm512_sra_epi32,
    _mm512_srl_epi32,
    _mm512_castsi512_ps,
    _mm512_castps_si512,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps,
    _mm512_loadu_ps
);
