//! x86-64 with AVX2, FMA and F16C: the loops of [`super::body`] compiled for them, and tiles of products.

use super::compiled::compiled;
use super::floats::{BF16, F16, F32, ROWS, Width, column_bytes};
use super::tokens::Avx2;
use std::arch::x86_64::*;

compiled!("avx2", Avx2, "avx2,fma,f16c", Vectors);

/// Reached through [`operations`] alone, hence through a token.
struct Vectors;

// SAFETY of every block below: this type is reached through a token, and arrays are as long as what is read and written.
impl attend::Lanes for Vectors {
    type Sixteen = [__m256; 2];
    const FUSED: bool = true;
    const TOGETHER: usize = 4;
    const SUMS: usize = 4;

    #[inline(always)]
    fn zero() -> [__m256; 2] {
        // SAFETY: as above.
        [unsafe { _mm256_setzero_ps() }; 2]
    }

    #[inline(always)]
    fn splat(x: f32) -> [__m256; 2] {
        // SAFETY: as above.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn load(numbers: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(a: [__m256; 2]) -> [f32; 16] {
        bytemuck::cast(a)
    }

    #[inline(always)]
    fn floats(bytes: &[u8; 64]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_ps(bytes.as_ptr().cast()), _mm256_loadu_ps(bytes.as_ptr().add(32).cast())] }
    }

    #[inline(always)]
    fn halves(bytes: &[u8; 32]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let halves =
                [_mm_loadu_si128(bytes.as_ptr().cast()), _mm_loadu_si128(bytes.as_ptr().add(16).cast())];
            [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
        }
    }

    #[inline(always)]
    fn bytes(codes: &[u8; 16]) -> [__m256; 2] {
        // SAFETY: as above.
        numbers(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn nibbles(codes: &[u8; 16], upper: bool) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let levels = _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            // Shifted by a number, not by a branch: which half may be known only as it runs.
            let codes = _mm_srl_epi16(codes, _mm_cvtsi32_si128(if upper { 4 } else { 0 }));
            numbers(_mm_shuffle_epi8(levels, _mm_and_si128(codes, _mm_set1_epi8(15))))
        }
    }

    #[inline(always)]
    fn multiply(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn higher(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above. Of what cannot be compared the instruction gives the second.
        unsafe { [_mm256_max_ps(b[0], a[0]), _mm256_max_ps(b[1], a[1])] }
    }

    #[inline(always)]
    fn multiply_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
}

/// Sixteen signed bytes as numbers.
#[inline(always)]
fn numbers(codes: __m128i) -> [__m256; 2] {
    // SAFETY: called behind a token.
    unsafe {
        let upper = _mm_unpackhi_epi64(codes, codes);
        [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper))]
    }
}

impl floats::Tile for Vectors {
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
