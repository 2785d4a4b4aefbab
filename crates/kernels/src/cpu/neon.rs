//! AArch64 with NEON: the loops of [`super::body`] compiled for it, and tiles of products.

use super::compiled::compiled;
use super::floats::{ROWS, Width};
use super::tokens::Neon;
use std::arch::aarch64::*;
use std::arch::asm;

compiled!("neon", Neon, "neon,dotprod", Widened);

/// Reached through [`operations`] alone, hence through a token.
struct Widened;

impl attend::Widen for Widened {
    const FUSED: bool = true;
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn halves(bytes: &[u8; 32]) -> [f32; 16] {
        // SAFETY: this type is reached through a token; four times four halves.
        bytemuck::cast([0, 1, 2, 3].map(|i| unsafe { halves(bytes.as_ptr().add(8 * i)) }))
    }

    #[inline(always)]
    fn add(sum: [f32; 16], factor: f32, lane: [f32; 16]) -> [f32; 16] {
        let (lane, sum): ([float32x4_t; 4], [float32x4_t; 4]) = (bytemuck::cast(lane), bytemuck::cast(sum));
        // SAFETY: this type is reached through a token.
        bytemuck::cast([0, 1, 2, 3].map(|i| unsafe { vfmaq_n_f32(sum[i], lane[i], factor) }))
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
    // SAFETY: the caller's.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(at)))) }
}

impl floats::Tile for Widened {
    const TOGETHER: usize = 6;

    #[inline(always)]
    fn tile<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = floats::columns(width, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        let mut sums = [[0.0; ROWS]; T];
        for half in 0..2 {
            // SAFETY: this type is reached through a token; the panel has `columns` columns of 32 numbers, and so has each
            // row numbers (asserted).
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
    // SAFETY: the caller's: so many columns in the panel and in every row.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 4]; T];
        for column in 0..columns {
            let at = panel.add(column * 8 * bytes);
            if T == 1 {
                ask_ahead(at, 8 * bytes);
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
