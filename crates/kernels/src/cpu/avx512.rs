//! x86-64 with AVX-512: the loops of [`super::body`] compiled for it, and tiles of products.
//!
//! Every sum adds what that of AVX2 adds, in the same order.

use super::compiled::compiled;
use super::floats::{BF16, F16, F32, ROWS, Width, column_bytes};
use super::tokens::Avx512;
use std::arch::x86_64::*;

compiled!("avx512", Avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl", Widened);

/// Reached through [`operations`] alone, hence through a token.
struct Widened;

impl attend::Widen for Widened {
    const FUSED: bool = true;
    const TOGETHER: usize = 8;

    #[inline(always)]
    fn halves(bytes: &[u8; 32]) -> [f32; 16] {
        // SAFETY: this type is reached through a token; the array is 32 bytes.
        unsafe { bytemuck::cast(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn add(sum: [f32; 16], factor: f32, lane: [f32; 16]) -> [f32; 16] {
        // SAFETY: this type is reached through a token.
        unsafe {
            bytemuck::cast(_mm512_fmadd_ps(_mm512_set1_ps(factor), bytemuck::cast(lane), bytemuck::cast(sum)))
        }
    }
}

impl floats::Tile for Widened {
    const TOGETHER: usize = 12;

    #[inline(always)]
    fn tile<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = floats::columns(width, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        // SAFETY: this type is reached through a token; the panel has `columns` columns of 32 numbers, and so has
        // each row numbers (asserted).
        unsafe {
            match width {
                Width::F32 => tile::<F32, T>(panel.as_ptr(), columns, x),
                Width::F16 => tile::<F16, T>(panel.as_ptr(), columns, x),
                Width::Bf16 => tile::<BF16, T>(panel.as_ptr(), columns, x),
            }
        }
    }
}

/// 24 sums at most, two vectors of weights and an activation: 27 registers of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn tile<const WIDTH: u8, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[f32; ROWS]; T] {
    let column_bytes = const { column_bytes(WIDTH) };
    let mut sums = [[_mm512_setzero_ps(); 2]; T];
    for column in 0..columns {
        // SAFETY: the caller's: so many columns in the panel and in every row; prefetching reads nothing.
        unsafe {
            let at = panel.add(column * column_bytes);
            if T == 1 {
                ask_ahead(at, column_bytes);
            }
            let load = |half: usize| match WIDTH {
                F32 => _mm512_loadu_ps(at.add(64 * half).cast()),
                F16 => _mm512_cvtph_ps(_mm256_loadu_si256(at.add(32 * half).cast())),
                _ => {
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.add(32 * half).cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                }
            };
            let weights = [load(0), load(1)];
            for t in 0..T {
                let x = _mm512_set1_ps(*x[t].add(column));
                sums[t] =
                    [_mm512_fmadd_ps(weights[0], x, sums[t][0]), _mm512_fmadd_ps(weights[1], x, sums[t][1])];
            }
        }
    }
    sums.map(bytemuck::cast)
}
