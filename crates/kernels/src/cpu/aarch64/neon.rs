//! The loops over floats for AArch64 with NEON.

use crate::cpu::codes::{activations, outliers};
use crate::cpu::generic::float_tile::{self, FloatType, ROWS, Tile};
use crate::cpu::generic::lanes::Lanes;
use crate::cpu::generic::recurrent::{TILE, TileToken};
use crate::cpu::generic::{attention_kernel, loops, recurrent};
use crate::cpu::multiversion::multiversion;
use crate::cpu::prefetch::prefetch_codes;
use crate::view::View;
use std::arch::aarch64::*;
use std::arch::asm;

multiversion!("neon,dotprod", Vectors);

/// Four vectors of four floats. A value proves that the processor has NEON and its dot products.
#[derive(Clone, Copy)]
struct Vectors(());

impl Vectors {
    /// Returns a value that proves that the processor has the instruction set.
    ///
    /// # Safety
    /// The processor has NEON and its dot products.
    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }
}

impl Lanes for Vectors {
    type Vector = [float32x4_t; 4];
    const FUSED: bool = true;
    const MAX_ROWS: usize = 4;
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn zero(self) -> [float32x4_t; 4] {
        self.splat(0.0)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [unsafe { vdupq_n_f32(x) }; 4]
    }

    #[inline(always)]
    fn load_array(self, floats: &[f32; 16]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [0, 4, 8, 12].map(|i| unsafe { vld1q_f32(floats.as_ptr().add(i)) })
    }

    #[inline(always)]
    fn to_array(self, a: [float32x4_t; 4]) -> [f32; 16] {
        bytemuck::cast(a)
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 64]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [0, 16, 32, 48].map(|i| unsafe { vreinterpretq_f32_u8(vld1q_u8(bytes.as_ptr().add(i))) })
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [0, 8, 16, 24].map(|i| unsafe { load_f16x4(bytes.as_ptr().add(i)) })
    }

    #[inline(always)]
    fn load_i8(self, codes: &[u8; 16]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        to_floats(unsafe { vreinterpretq_s8_u8(vld1q_u8(codes.as_ptr())) })
    }

    #[inline(always)]
    fn load_i4(self, codes: &[u8; 16], upper: bool) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        unsafe {
            let codes = vld1q_u8(codes.as_ptr());
            let codes = if upper { vshrq_n_u8::<4>(codes) } else { vandq_u8(codes, vdupq_n_u8(15)) };
            to_floats(vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(8)))
        }
    }

    #[inline(always)]
    fn multiply(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [0, 1, 2, 3].map(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    fn max(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [0, 1, 2, 3].map(|i| unsafe { vbslq_f32(vcgtq_f32(b[i], a[i]), b[i], a[i]) })
    }

    #[inline(always)]
    fn multiply_add(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves that the processor has the instruction set. Loads read only bytes of the array.
        [0, 1, 2, 3].map(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
}

/// Converts sixteen signed bytes to floats.
#[inline(always)]
fn to_floats(codes: int8x16_t) -> [float32x4_t; 4] {
    // SAFETY: only methods of [`Vectors`] call this function. A value of this type proves that the processor has the
    // instruction set.
    unsafe {
        let halves = [vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes)];
        let quarters = [0, 1].map(|i| [vmovl_s16(vget_low_s16(halves[i])), vmovl_high_s16(halves[i])]);
        let [[a, b], [c, d]] = quarters;
        [a, b, c, d].map(|four| vcvtq_f32_s32(four))
    }
}

/// Loads four `f16` values and converts them to `f32`.
///
/// # Safety
/// Eight bytes are readable at `at`.
#[inline(always)]
pub(crate) unsafe fn load_f16x4(at: *const u8) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: the caller guarantees that eight bytes are readable. `fcvtl` belongs to the base instruction set of
    // AArch64.
    unsafe {
        let halves = vld1_u8(at);
        asm!("fcvtl {o:v}.4s, {i:v}.4h", o = lateout(vreg) floats, i = in(vreg) halves, options(nomem, nostack, pure, preserves_flags));
    }
    floats
}

/// Loads four `bf16` values and converts them to `f32`.
///
/// # Safety
/// Eight bytes are readable at `at`.
#[inline(always)]
pub(crate) unsafe fn load_bf16x4(at: *const u8) -> float32x4_t {
    // SAFETY: the caller guarantees that eight bytes are readable.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(at)))) }
}

impl Tile for Vectors {
    const MAX_ROWS: usize = 6;

    #[inline(always)]
    fn tile<const T: usize>(self, float_type: FloatType, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = float_tile::columns(float_type, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        let mut sums = [[0.0; ROWS]; T];
        for half in 0..2 {
            // SAFETY: `self` proves that the processor has the instruction set. `float_tile::columns` has asserted that
            // the panel has `columns` columns of 32 floats and that each row has `columns` floats.
            let found = unsafe {
                match float_type {
                    FloatType::F32 => {
                        tile(panel.as_ptr().add(64 * half), 16, columns, x, |at| vld1q_f32(at.cast()))
                    }
                    FloatType::F16 => tile(panel.as_ptr().add(32 * half), 8, columns, x, |at| load_f16x4(at)),
                    FloatType::Bf16 => {
                        tile(panel.as_ptr().add(32 * half), 8, columns, x, |at| load_bf16x4(at))
                    }
                }
            };
            for (sums, found) in sums.iter_mut().zip(found) {
                sums[16 * half..][..16].copy_from_slice(bytemuck::cast_ref::<_, [f32; 16]>(&found));
            }
        }
        sums
    }
}

/// Multiplies half of each column of a panel with `T` rows of activations. A panel is 32 rows of a matrix, stored
/// column by column. Half a column is sixteen floats: four vectors, each stored in `bytes` bytes. `load` reads a vector
/// as `f32`. The code needs at most 24 accumulators, four vectors of weights and one activation. These are 29 of the 32
/// registers.
///
/// # Safety
/// The panel has `columns` columns, and each row of `x` has `columns` floats.
#[inline(always)]
unsafe fn tile<const T: usize>(
    panel: *const u8,
    bytes: usize,
    columns: usize,
    x: [*const f32; T],
    load: impl Fn(*const u8) -> float32x4_t,
) -> [[float32x4_t; 4]; T] {
    // SAFETY: the caller guarantees that the panel has `columns` columns and that every row has `columns` floats.
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
