//! Vectors of NEON, two registers for eight rows: `sdot` multiplies four signed bytes with four others in every lane, and adds
//! them to a sum of 32 bits.

use super::ROWS;
use super::vector::Vector;
use crate::cpu::neon;
use std::arch::aarch64::*;
use std::arch::asm;

/// Eight rows.
pub(crate) struct Eight;

type Integers = [int32x4_t; 2];
type Numbers = [float32x4_t; 2];

#[inline(always)]
fn both<A: Copy, B: Copy, C>(a: [A; 2], b: [B; 2], f: impl Fn(A, B) -> C) -> [C; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
}

// SAFETY of every block below: NEON is in the base of AArch64, `sdot` behind the token through which this type is reached,
// and pointers are the callers' matter, as the trait says.
impl Vector for Eight {
    type Integers = Integers;
    type Numbers = Numbers;
    const ROWS: usize = 8;
    const RAISE: i16 = 0;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Integers {
        // SAFETY: as above.
        unsafe { [vld1q_s32(at.cast()), vld1q_s32(at.add(16).cast())] }
    }
    #[inline(always)]
    fn splat(x: i32) -> Integers {
        // SAFETY: as above.
        unsafe { [vdupq_n_s32(x); 2] }
    }
    #[inline(always)]
    fn table(bytes: &[u8; 16]) -> Integers {
        // SAFETY: as above; sixteen bytes.
        unsafe { [vreinterpretq_s32_u8(vld1q_u8(bytes.as_ptr())); 2] }
    }
    #[inline(always)]
    fn and(a: Integers, b: Integers) -> Integers {
        // SAFETY: as above.
        both(a, b, |a, b| unsafe { vandq_s32(a, b) })
    }
    #[inline(always)]
    fn or(a: Integers, b: Integers) -> Integers {
        // SAFETY: as above.
        both(a, b, |a, b| unsafe { vorrq_s32(a, b) })
    }
    #[inline(always)]
    fn xor(a: Integers, b: Integers) -> Integers {
        // SAFETY: as above.
        both(a, b, |a, b| unsafe { veorq_s32(a, b) })
    }
    #[inline(always)]
    fn right<const N: u32>(a: Integers) -> Integers {
        // SAFETY: as above.
        a.map(|a| unsafe {
            let by = vdupq_n_s16(-(N as i16));
            vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), by))
        })
    }
    #[inline(always)]
    fn left<const N: u32>(a: Integers) -> Integers {
        // SAFETY: as above.
        a.map(|a| unsafe {
            let by = vdupq_n_s16(N as i16);
            vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), by))
        })
    }
    #[inline(always)]
    fn lookup(table: Integers, index: Integers) -> Integers {
        // SAFETY: as above.
        both(table, index, |table, index| unsafe {
            vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(index)))
        })
    }
    #[inline(always)]
    fn dot(sum: Integers, codes: Integers, activations: i32) -> Integers {
        both(sum, codes, |mut sum, codes| {
            // SAFETY: as above.
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
    fn sixteenth(a: Integers) -> Integers {
        // SAFETY: as above.
        a.map(|a| unsafe { vshrq_n_s32::<4>(a) })
    }
    #[inline(always)]
    fn shifted(a: Integers, bits: u32) -> Integers {
        // SAFETY: as above.
        a.map(|a| unsafe {
            let by = vdupq_n_s32(-bits.cast_signed());
            vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), by))
        })
    }
    #[inline(always)]
    fn add(a: Integers, b: Integers) -> Integers {
        // SAFETY: as above.
        both(a, b, |a, b| unsafe { vaddq_s32(a, b) })
    }
    #[inline(always)]
    unsafe fn signed(at: *const u8) -> Integers {
        // SAFETY: as above.
        unsafe {
            let wide = vmovl_s8(vld1_s8(at.cast()));
            [vmovl_s16(vget_low_s16(wide)), vmovl_s16(vget_high_s16(wide))]
        }
    }
    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> Integers {
        // SAFETY: as above.
        unsafe {
            let wide = vmovl_u8(vld1_u8(at));
            [vmovl_u16(vget_low_u16(wide)), vmovl_u16(vget_high_u16(wide))].map(|x| vreinterpretq_s32_u32(x))
        }
    }
    #[inline(always)]
    fn numbers(a: Integers) -> Numbers {
        // SAFETY: as above.
        a.map(|a| unsafe { vcvtq_f32_s32(a) })
    }
    #[inline(always)]
    fn number(x: f32) -> Numbers {
        // SAFETY: as above.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    unsafe fn halves(at: *const u8) -> Numbers {
        // SAFETY: as above.
        unsafe { [neon::halves(at), neon::halves(at.add(8))] }
    }
    #[inline(always)]
    unsafe fn upper_halves(at: *const u8) -> Numbers {
        // SAFETY: as above.
        unsafe { [neon::upper_halves(at), neon::upper_halves(at.add(8))] }
    }
    #[inline(always)]
    fn multiply(a: Numbers, b: Numbers) -> Numbers {
        // SAFETY: as above.
        both(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn negative(a: Numbers) -> Numbers {
        // SAFETY: as above.
        a.map(|a| unsafe { vnegq_f32(a) })
    }
    #[inline(always)]
    fn multiply_add(a: Numbers, b: Numbers, c: Numbers) -> Numbers {
        // SAFETY: as above.
        [0, 1].map(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn store(a: Numbers) -> [f32; ROWS] {
        let mut out = [0.0; ROWS];
        // SAFETY: as above; the array is longer than both.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), a[0]);
            vst1q_f32(out.as_mut_ptr().add(4), a[1]);
        }
        out
    }
    #[inline(always)]
    unsafe fn take(at: *const f32) -> Numbers {
        // SAFETY: as above.
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4))] }
    }
    #[inline(always)]
    unsafe fn put(a: Numbers, at: *mut f32) {
        // SAFETY: as above.
        unsafe {
            vst1q_f32(at, a[0]);
            vst1q_f32(at.add(4), a[1]);
        }
    }
}
