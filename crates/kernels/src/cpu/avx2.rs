//! x86-64 with AVX2, FMA and F16C: the loops of [`super::body`] compiled for them, and tiles of products.

use super::{Operations, Take, attend, body, panels};
use crate::KvFormat;
use crate::dense::View;

/// Proof that this processor has AVX2, FMA and F16C: only detection makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Option<Self> {
        let all = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Option<Self> {
        None
    }

    /// The loops of this instruction set.
    pub fn operations(self) -> &'static Operations {
        &OPERATIONS
    }
}

/// Reached through [`Avx2::operations`] alone, so that the token stands before every call.
static OPERATIONS: Operations =
    Operations { name: "avx2", dot, attend, add_few, tiles, round, softmax, swiglu, swiglu_back };

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_avx2(x: &[f32], y: &[f32]) -> f32 {
    body::dot::<true>(x, y)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn attend_avx2(format: KvFormat, rows: &mut attend::Rows, page: usize, keys: &[u8], values: &[u8]) {
    attend::dispatch::<Fused>(format, rows, page, keys, values);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_few_avx2(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
    body::add_few::<true>(out, stride, a, b);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn tiles_avx2(w: View<f32>, x: &[f32], out: Take) {
    body::tiles::<true, Fused>(w, x, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn softmax_avx2(x: &mut [f32]) {
    body::softmax::<true>(x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn swiglu_avx2(gate: &mut [f32], up: &[f32]) {
    body::swiglu::<true>(gate, up);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn swiglu_back_avx2(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    body::swiglu_back::<true>(gate, up, gradient);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn round_avx2(x: &[f32], codes: &mut [i8], scales: &mut [[f32; 2]], sums: &mut [[i16; 2]]) {
    panels::round(x, codes, scales, sums);
}

#[cfg(target_arch = "x86_64")]
struct Fused;

#[cfg(target_arch = "x86_64")]
impl body::Tiles for Fused {
    #[inline(always)]
    fn tile<const W: usize, const X: usize>(w: [&[f32]; W], x: [&[f32]; X]) -> body::Tile<W, X> {
        // SAFETY: this type is reached through `tiles` alone, hence through an `Avx2` token.
        unsafe { tile_avx2(w, x) }
    }
}

#[cfg(target_arch = "x86_64")]
impl attend::Widen for Fused {
    const FUSED: bool = true;

    #[inline(always)]
    fn halves(bytes: &[u8; 32]) -> [f32; 16] {
        // SAFETY: this type is reached through `attend` alone, hence through an `Avx2` token.
        unsafe { halves_avx2(bytes) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn halves_avx2(bytes: &[u8; 32]) -> [f32; 16] {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps};
    let halves = bytes.as_chunks::<16>().0;
    // SAFETY: each half of the array is sixteen bytes.
    let halves = [0, 1].map(|i| unsafe { _mm_loadu_si128(halves[i].as_ptr().cast()) });
    bytemuck::cast(halves.map(|eight| _mm256_cvtph_ps(eight)))
}

/// Four rows of weights and three of activations: twelve sums, three activations and one weight make sixteen
/// registers.
///
/// | f16, one thread, GFMA/s (`cargo bench -p kvant-kernels`) | 16 rows | 32 rows |
/// |---|---:|---:|
/// | 768 × 768, panel and `gemm` | 10.6 | 18.2 |
/// | 768 × 768, tiles | 15.1 | 24.8 |
/// | 2048 × 2048, panel and `gemm` | 4.6 | 8.7 |
/// | 2048 × 2048, tiles | 19.2 | 26.8 |
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn tile_avx2<const W: usize, const X: usize>(w: [&[f32]; W], x: [&[f32]; X]) -> body::Tile<W, X> {
    use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_setzero_ps};
    let columns = w[0].len();
    assert!(w.iter().chain(&x).all(|row| row.len() == columns), "rows of one length");
    let lanes = |row: &[f32]| row.as_ptr().cast::<[f32; body::TILE_LANES]>();
    let (w, x) = (w.map(lanes), x.map(lanes));
    let mut sums = [[_mm256_setzero_ps(); X]; W];
    for at in 0..columns / body::TILE_LANES {
        let load = |row: *const [f32; body::TILE_LANES]| -> __m256 {
            // SAFETY: each pointer is a row of `columns` numbers, and `at` counts its whole lanes.
            bytemuck::cast(unsafe { *row.add(at) })
        };
        let x = x.map(load);
        for i in 0..W {
            let w = load(w[i]);
            for j in 0..X {
                sums[i][j] = _mm256_fmadd_ps(w, x[j], sums[i][j]);
            }
        }
    }
    sums.map(|row| row.map(bytemuck::cast))
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: these functions are reached through an `Avx2` token, which proves the features.
    unsafe {
        dot_avx2(x, y)
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::dot::<false>(x, y)
}

fn attend(format: KvFormat, rows: &mut attend::Rows, page: usize, keys: &[u8], values: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        attend_avx2(format, rows, page, keys, values);
    }
    #[cfg(not(target_arch = "x86_64"))]
    (super::scalar::OPERATIONS.attend)(format, rows, page, keys, values);
}

fn add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        add_few_avx2(out, stride, a, b);
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::add_few::<false>(out, stride, a, b);
}

fn tiles(w: View<f32>, x: &[f32], out: Take) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        tiles_avx2(w, x, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    (super::scalar::OPERATIONS.tiles)(w, x, out);
}

fn softmax(x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        softmax_avx2(x);
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::softmax::<false>(x);
}

fn swiglu(gate: &mut [f32], up: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        swiglu_avx2(gate, up);
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::swiglu::<false>(gate, up);
}

fn swiglu_back(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        swiglu_back_avx2(gate, up, gradient);
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::swiglu_back::<false>(gate, up, gradient);
}

fn round(x: &[f32], codes: &mut [i8], scales: &mut [[f32; 2]], sums: &mut [[i16; 2]]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        round_avx2(x, codes, scales, sums);
    }
    #[cfg(not(target_arch = "x86_64"))]
    panels::round(x, codes, scales, sums);
}
