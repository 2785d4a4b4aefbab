//! x86-64 with AVX2, FMA and F16C: the loops of [`super::body`] compiled for them, and tiles of products.

use super::compiled::compiled;
use super::floats::{BF16, F16, F32, ROWS, Width, column_bytes};
use super::tokens::Avx2;
use std::arch::x86_64::*;

compiled!("avx2", Avx2, "avx2,fma,f16c", Widened);

/// Reached through [`operations`] alone, hence through a token.
struct Widened;

impl attend::Widen for Widened {
    const FUSED: bool = true;
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn halves(bytes: &[u8; 32]) -> [f32; 16] {
        // SAFETY: this type is reached through a token.
        unsafe { halves(bytes) }
    }

    #[inline(always)]
    fn add(sum: [f32; 16], factor: f32, lane: [f32; 16]) -> [f32; 16] {
        let (lane, sum): ([__m256; 2], [__m256; 2]) = (bytemuck::cast(lane), bytemuck::cast(sum));
        // SAFETY: this type is reached through a token.
        let halves = [0, 1].map(|i| unsafe { _mm256_fmadd_ps(_mm256_set1_ps(factor), lane[i], sum[i]) });
        bytemuck::cast(halves)
    }
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
fn halves(bytes: &[u8; 32]) -> [f32; 16] {
    let halves = bytes.as_chunks::<16>().0;
    // SAFETY: each half of the array is sixteen bytes.
    let halves = [0, 1].map(|i| unsafe { _mm_loadu_si128(halves[i].as_ptr().cast()) });
    bytemuck::cast(halves.map(|eight| _mm256_cvtph_ps(eight)))
}

impl floats::Tile for Widened {
    const TOGETHER: usize = 6;

    #[inline(always)]
    fn tile<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
        let columns = floats::columns(width, panel, x);
        let x = x.map(<[f32]>::as_ptr);
        // SAFETY: this type is reached through a token; the panel has `columns` columns of 32 numbers, and so has
        // each row numbers (asserted).
        unsafe {
            match width {
                Width::F32 => halves_of_tile::<F32, T>(panel.as_ptr(), columns, x),
                Width::F16 => halves_of_tile::<F16, T>(panel.as_ptr(), columns, x),
                Width::Bf16 => halves_of_tile::<BF16, T>(panel.as_ptr(), columns, x),
            }
        }
    }
}

/// A row of activations reads a column at once; more rows have registers for half of one at a time.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn halves_of_tile<const WIDTH: u8, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0; ROWS]; T];
    // SAFETY: the caller's.
    unsafe {
        if T == 1 {
            sums = tile::<WIDTH, 4, T>(panel, columns, x).map(bytemuck::cast);
        } else {
            let lower = tile::<WIDTH, 2, T>(panel, columns, x);
            let upper = tile::<WIDTH, 2, T>(panel.add(column_bytes(WIDTH) / 2), columns, x);
            for (sums, halves) in sums.iter_mut().zip(lower.into_iter().zip(upper)) {
                *sums = bytemuck::cast([halves.0, halves.1]);
            }
        }
    }
    sums
}

/// So many vectors of each column. Twelve sums at most, two vectors of weights and an activation make fifteen registers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile<const WIDTH: u8, const VECTORS: usize, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[__m256; VECTORS]; T] {
    let column_bytes = const { column_bytes(WIDTH) };
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; T];
    for column in 0..columns {
        // SAFETY: the caller's: so many columns in the panel and in every row; prefetching reads nothing.
        unsafe {
            let at = panel.add(column * column_bytes);
            if T == 1 {
                ask_ahead(at, column_bytes);
            }
            let weights: [__m256; VECTORS] = std::array::from_fn(|vector| match WIDTH {
                F32 => _mm256_loadu_ps(at.add(32 * vector).cast()),
                F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.add(16 * vector).cast())),
                _ => {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(16 * vector).cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                }
            });
            for t in 0..T {
                let x = _mm256_broadcast_ss(&*x[t].add(column));
                for vector in 0..VECTORS {
                    sums[t][vector] = _mm256_fmadd_ps(weights[vector], x, sums[t][vector]);
                }
            }
        }
    }
    sums
}
