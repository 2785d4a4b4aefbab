//! Vectors of AVX2 and AVX-512 for integer codes. In every lane, `vpdpbusd` (VNNI) multiplies four unsigned codes by
//! four signed activations and adds the four products to a 32-bit sum. No intermediate result overflows, because the
//! instruction has no 16-bit sums.

use crate::cpu::codes::layout::ROWS;
use crate::cpu::generic::simd::SimdInt8;
use std::arch::x86_64::*;

macro_rules! vector {
    ($(#[$doc:meta])* $name:ident, $rows:literal, $integers:ty, $floats:ty,
     $load:ident, $splat:ident, $broadcast_table:ident, $and:ident, $or:ident, $xor:ident, $shift_right_16:ident, $shift_left_16:ident, $lookup:ident,
     $dot:ident, $add:ident, $widen_i8:ident, $widen_u8:ident, $load_bytes:ident, $to_floats:ident,
     $splat_float:ident, $from_f16:ident, $load_16_bit:ident, $widen_u16:ident, $shift_left_32:ident, $arithmetic_right_32:ident, $logical_right_32:ident, $as_floats:ident, $as_integers:ident,
     $multiply:ident, $multiply_add:ident, $store_floats:ident, $load_floats:ident,
     $($additional:item)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(());

        impl $name {
            /// Returns a value that proves that the processor has the instruction set.
            ///
            /// # Safety
            /// The processor has the instruction set.
            #[inline(always)]
            pub unsafe fn new() -> Self {
                Self(())
            }
        }

        impl SimdInt8 for $name {
            type Ints = $integers;
            type Floats = $floats;
            const ROWS: usize = $rows;
            // `vpdpbusd` needs unsigned codes, so 128 is added to signed levels.
            const BIAS: i16 = 128;
            $($additional)*

            #[inline(always)]
            unsafe fn load(self, at: *const u8) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $load(at.cast()) }
            }
            #[inline(always)]
            fn splat(self, x: i32) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $splat(x) }
            }
            #[inline(always)]
            fn level_table(self, bytes: &[u8; 16]) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set. The table has the sixteen bytes
                // that are read.
                unsafe { $broadcast_table(_mm_loadu_si128(bytes.as_ptr().cast())) }
            }
            #[inline(always)]
            fn and(self, a: $integers, b: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $and(a, b) }
            }
            #[inline(always)]
            fn or(self, a: $integers, b: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $or(a, b) }
            }
            #[inline(always)]
            fn xor(self, a: $integers, b: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $xor(a, b) }
            }
            #[inline(always)]
            fn shift_right_16<const N: u32>(self, a: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $shift_right_16(a, _mm_cvtsi32_si128(N.cast_signed())) }
            }
            #[inline(always)]
            fn shift_left_16<const N: u32>(self, a: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $shift_left_16(a, _mm_cvtsi32_si128(N.cast_signed())) }
            }
            #[inline(always)]
            fn lookup(self, table: $integers, index: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $lookup(table, index) }
            }
            #[inline(always)]
            fn dot(self, sum: $integers, codes: $integers, activations: i32) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $dot(sum, codes, $splat(activations)) }
            }
            #[inline(always)]
            fn divide_by_16(self, a: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $arithmetic_right_32(a, _mm_cvtsi32_si128(4)) }
            }
            #[inline(always)]
            fn shift_right_32(self, a: $integers, bits: u32) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $logical_right_32(a, _mm_cvtsi32_si128(bits.cast_signed())) }
            }
            #[inline(always)]
            fn add(self, a: $integers, b: $integers) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            unsafe fn load_i8(self, at: *const u8) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $widen_i8($load_bytes(at.cast())) }
            }
            #[inline(always)]
            unsafe fn load_u8(self, at: *const u8) -> $integers {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $widen_u8($load_bytes(at.cast())) }
            }
            #[inline(always)]
            fn to_floats(self, a: $integers) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $to_floats(a) }
            }
            #[inline(always)]
            fn splat_float(self, x: f32) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $splat_float(x) }
            }
            #[inline(always)]
            unsafe fn load_f16(self, at: *const u8) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $from_f16($load_16_bit(at.cast())) }
            }
            #[inline(always)]
            unsafe fn load_bf16(self, at: *const u8) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $as_floats($shift_left_32($widen_u16($load_16_bit(at.cast())), _mm_cvtsi32_si128(16))) }
            }
            #[inline(always)]
            fn multiply(self, a: $floats, b: $floats) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $multiply(a, b) }
            }
            #[inline(always)]
            fn negate(self, a: $floats) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $as_floats($xor($as_integers(a), $splat(i32::MIN))) }
            }
            #[inline(always)]
            fn multiply_add(self, a: $floats, b: $floats, c: $floats) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set.
                unsafe { $multiply_add(a, b, c) }
            }
            #[inline(always)]
            fn to_array(self, a: $floats) -> [f32; ROWS] {
                let mut out = [0.0; ROWS];
                // SAFETY: `self` proves that the processor has the instruction set. The array has sixteen floats, and a
                // vector has at most sixteen floats.
                unsafe { $store_floats(out.as_mut_ptr(), a) };
                out
            }
            #[inline(always)]
            unsafe fn load_floats(self, at: *const f32) -> $floats {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $load_floats(at) }
            }
            #[inline(always)]
            unsafe fn store_floats(self, a: $floats, at: *mut f32) {
                // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the
                // memory at `at` is accessible.
                unsafe { $store_floats(at, a) }
            }
        }
    };
}

vector!(
    /// Vectors of eight lanes, for panels of eight rows. A panel is 8 or 16 rows of a matrix, stored side by side. The
    /// methods need AVX2, FMA and F16C. [`SimdInt8::dot`] also needs AVX-VNNI.
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
    _mm256_loadu_ps,
);
vector!(
    /// Vectors of sixteen lanes, for panels of sixteen rows. The methods need AVX-512 F, BW, VL and VNNI.
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
    _mm512_loadu_ps,
    const PERMUTES_FLOATS: bool = true;
    #[inline(always)]
    fn permute_floats(self, table: __m512, index: __m512i) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction set.
        unsafe { _mm512_permutexvar_ps(index, table) }
    }
);
