//! AArch64 with NEON: the loops over floats.

use crate::cpu::codes::{activations, outliers};
use crate::cpu::generic::float_tile::{self, ROWS, Tile, Width};
use crate::cpu::generic::lanes::Lanes;
use crate::cpu::generic::{attention_kernel, loops};
use crate::cpu::multiversion::multiversion;
use crate::cpu::prefetch::prefetch_codes;
use crate::view::View;
use std::arch::aarch64::*;
use std::arch::asm;

multiversion!("neon,dotprod", Vectors);

/// Four vectors of four floats.
#[derive(Clone, Copy)]
struct Vectors(());

impl Vectors {
    /// # Safety
    /// The processor has NEON's dot products.
    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }
}

impl Lanes for Vectors {
    type Vector = [float32x4_t; 4];
    const FUSED: bool = true;
    const TOGETHER: usize = 4;
    const SUMS: usize = 4;

    #[inline(always)]
    fn zero(self) -> [float32x4_t; 4] {
        self.splat(0.0)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [unsafe { vdupq_n_f32(x) }; 4]
    }

    #[inline(always)]
    fn load_array(self, numbers: &[f32; 16]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [0, 4, 8, 12].map(|i| unsafe { vld1q_f32(numbers.as_ptr().add(i)) })
    }

    #[inline(always)]
    fn to_array(self, a: [float32x4_t; 4]) -> [f32; 16] {
        bytemuck::cast(a)
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 64]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [0, 16, 32, 48].map(|i| unsafe { vreinterpretq_f32_u8(vld1q_u8(bytes.as_ptr().add(i))) })
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [0, 8, 16, 24].map(|i| unsafe { halves(bytes.as_ptr().add(i)) })
    }

    #[inline(always)]
    fn load_i8(self, codes: &[u8; 16]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        numbers(unsafe { vreinterpretq_s8_u8(vld1q_u8(codes.as_ptr())) })
    }

    #[inline(always)]
    fn load_i4(self, codes: &[u8; 16], upper: bool) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        unsafe {
            let codes = vld1q_u8(codes.as_ptr());
            let codes = if upper { vshrq_n_u8::<4>(codes) } else { vandq_u8(codes, vdupq_n_u8(15)) };
            numbers(vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(8)))
        }
    }

    #[inline(always)]
    fn multiply(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [0, 1, 2, 3].map(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    fn max(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [0, 1, 2, 3].map(|i| unsafe { vbslq_f32(vcgtq_f32(b[i], a[i]), b[i], a[i]) })
    }

    #[inline(always)]
    fn multiply_add(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instruction set; arrays are as long as what is read.
        [0, 1, 2, 3].map(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
}

/// Sixteen signed bytes as numbers.
#[inline(always)]
fn numbers(codes: int8x16_t) -> [float32x4_t; 4] {
    // SAFETY: called behind a token.
    unsafe {
        let halves = [vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes)];
        let quarters = [0, 1].map(|i| [vmovl_s16(vget_low_s16(halves[i])), vmovl_high_s16(halves[i])]);
        let [[a, b], [c, d]] = quarters;
        [a, b, c, d].map(|four| vcvtq_f32_s32(four))
    }
}

/// Four half floats as floats.
///
/// # Safety
/// Eight bytes lie there.
#[inline(always)]
pub(crate) unsafe fn halves(at: *const u8) -> float32x4_t {
    let numbers: float32x4_t;
    // SAFETY: the caller's; widening is in the base of the instruction set.
    unsafe {
        let halves = vld1_u8(at);
        asm!("fcvtl {o:v}.4s, {i:v}.4h", o = lateout(vreg) numbers, i = in(vreg) halves, options(nomem, nostack, pure, preserves_flags));
    }
    numbers
}

/// Four upper halves of floats as floats.
///
/// # Safety
/// Eight bytes lie there.
#[inline(always)]
pub(crate) unsafe fn upper_halves(at: *const u8) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(at)))) }
}

impl Tile for Vectors {
    const TOGETHER: usize = 6;

    #[inline(always)]
    fn tile<const T: usize>(self, width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = float_tile::columns(width, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        let mut sums = [[0.0; ROWS]; T];
        for half in 0..2 {
            // SAFETY: `self` proves the instruction set; the panel has `columns` columns of 32 floats, and each row as many
            // floats (asserted).
            let found = unsafe {
                match width {
                    Width::F32 => {
                        tile(panel.as_ptr().add(64 * half), 16, columns, x, |at| vld1q_f32(at.cast()))
                    }
                    Width::F16 => tile(panel.as_ptr().add(32 * half), 8, columns, x, |at| halves(at)),
                    Width::Bf16 => tile(panel.as_ptr().add(32 * half), 8, columns, x, |at| upper_halves(at)),
                }
            };
            for (sums, found) in sums.iter_mut().zip(found) {
                sums[16 * half..][..16].copy_from_slice(bytemuck::cast_ref::<_, [f32; 16]>(&found));
            }
        }
        sums
    }
}

/// Half of each column, four vectors of `bytes` each: 24 sums at most, four of weights and an activation make 29 registers.
#[inline(always)]
unsafe fn tile<const T: usize>(
    panel: *const u8,
    bytes: usize,
    columns: usize,
    x: [*const f32; T],
    load: impl Fn(*const u8) -> float32x4_t,
) -> [[float32x4_t; 4]; T] {
    // SAFETY: the caller promises so many columns in the panel and in every row.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 4]; T];
        for column in 0..columns {
            let at = panel.add(column * 8 * bytes);
            if T == 1 {
                prefetch_codes(at, 8 * bytes);
            }
            let weights = [0, 1, 2, 3].map(|i| load(at.add(i * bytes)));
            for t in 0..T {
                let x = *x[t].add(column);
                for i in 0..4 {
                    sums[t][i] = vfmaq_n_f32(sums[t][i], weights[i], x);
                }
            }
        }
        sums
    }
}
