//! NEON vectors for integer codes. Two registers hold the eight rows of a panel. A panel is 8 or 16 rows of a matrix,
//! stored side by side. In every lane, `sdot` multiplies four signed codes by four signed activations and adds the four
//! products to a 32-bit sum.

use super::neon;
use crate::cpu::codes::layout::ROWS;
use crate::cpu::generic::simd::SimdInt8;
use std::arch::aarch64::*;
use std::arch::asm;

/// Vectors of eight lanes, for panels of eight rows. The methods need NEON and its dot products.
#[derive(Clone, Copy)]
pub(crate) struct Eight(());

impl Eight {
    /// Returns a value that proves that the processor has the instruction set.
    ///
    /// # Safety
    /// The processor has NEON and its dot products.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

type Ints = [int32x4_t; 2];
type Floats = [float32x4_t; 2];

/// Applies `f` to the first elements of two pairs and to the second elements of the pairs.
#[inline(always)]
fn map_pairs<A: Copy, B: Copy, C>(a: [A; 2], b: [B; 2], f: impl Fn(A, B) -> C) -> [C; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
}

impl SimdInt8 for Eight {
    type Ints = Ints;
    type Floats = Floats;
    const ROWS: usize = 8;
    const BIAS: i16 = 0;

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe { [vld1q_s32(at.cast()), vld1q_s32(at.add(16).cast())] }
    }
    #[inline(always)]
    fn splat(self, x: i32) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        unsafe { [vdupq_n_s32(x); 2] }
    }
    #[inline(always)]
    fn level_table(self, bytes: &[u8; 16]) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set. The table has the sixteen bytes that are
        // read.
        unsafe { [vreinterpretq_s32_u8(vld1q_u8(bytes.as_ptr())); 2] }
    }
    #[inline(always)]
    fn and(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        map_pairs(a, b, |a, b| unsafe { vandq_s32(a, b) })
    }
    #[inline(always)]
    fn or(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        map_pairs(a, b, |a, b| unsafe { vorrq_s32(a, b) })
    }
    #[inline(always)]
    fn xor(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        map_pairs(a, b, |a, b| unsafe { veorq_s32(a, b) })
    }
    #[inline(always)]
    fn shift_right_16<const N: u32>(self, a: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        a.map(|a| unsafe {
            let by = vdupq_n_s16(-(N as i16));
            vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), by))
        })
    }
    #[inline(always)]
    fn shift_left_16<const N: u32>(self, a: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        a.map(|a| unsafe {
            let by = vdupq_n_s16(N as i16);
            vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), by))
        })
    }
    #[inline(always)]
    fn lookup(self, table: Ints, index: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        map_pairs(table, index, |table, index| unsafe {
            vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(index)))
        })
    }
    #[inline(always)]
    fn dot(self, sum: Ints, codes: Ints, activations: i32) -> Ints {
        map_pairs(sum, codes, |mut sum, codes| {
            // SAFETY: `self` proves that the processor has the instruction set.
            unsafe {
                let activations = vdupq_n_s32(activations);
                asm!(
                    ".arch_extension dotprod",
                    "sdot {s:v}.4s, {c:v}.16b, {a:v}.16b",
                    s = inout(vreg) sum, c = in(vreg) codes, a = in(vreg) activations,
                    options(nomem, nostack, pure, preserves_flags),
                );
            }
            sum
        })
    }
    #[inline(always)]
    fn divide_by_16(self, a: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        a.map(|a| unsafe { vshrq_n_s32::<4>(a) })
    }
    #[inline(always)]
    fn shift_right_32(self, a: Ints, bits: u32) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        a.map(|a| unsafe {
            let by = vdupq_n_s32(-bits.cast_signed());
            vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), by))
        })
    }
    #[inline(always)]
    fn add(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set.
        map_pairs(a, b, |a, b| unsafe { vaddq_s32(a, b) })
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe {
            let wide = vmovl_s8(vld1_s8(at.cast()));
            [vmovl_s16(vget_low_s16(wide)), vmovl_s16(vget_high_s16(wide))]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, at: *const u8) -> Ints {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe {
            let wide = vmovl_u8(vld1_u8(at));
            [vmovl_u16(vget_low_u16(wide)), vmovl_u16(vget_high_u16(wide))].map(|x| vreinterpretq_s32_u32(x))
        }
    }
    #[inline(always)]
    fn to_floats(self, a: Ints) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set.
        a.map(|a| unsafe { vcvtq_f32_s32(a) })
    }
    #[inline(always)]
    fn splat_float(self, x: f32) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe { [neon::load_f16x4(at), neon::load_f16x4(at.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u8) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe { [neon::load_bf16x4(at), neon::load_bf16x4(at.add(8))] }
    }
    #[inline(always)]
    fn multiply(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set.
        map_pairs(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn negate(self, a: Floats) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set.
        a.map(|a| unsafe { vnegq_f32(a) })
    }
    #[inline(always)]
    fn multiply_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set.
        [0, 1].map(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn to_array(self, a: Floats) -> [f32; ROWS] {
        let mut out = [0.0; ROWS];
        // SAFETY: `self` proves that the processor has the instruction set. The array has sixteen floats; eight are
        // written.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), a[0]);
            vst1q_f32(out.as_mut_ptr().add(4), a[1]);
        }
        out
    }
    #[inline(always)]
    unsafe fn load_floats(self, at: *const f32) -> Floats {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4))] }
    }
    #[inline(always)]
    unsafe fn store_floats(self, a: Floats, at: *mut f32) {
        // SAFETY: `self` proves that the processor has the instruction set. The caller guarantees that the memory at
        // `at` is accessible.
        unsafe {
            vst1q_f32(at, a[0]);
            vst1q_f32(at.add(4), a[1]);
        }
    }
}
