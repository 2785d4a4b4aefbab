//! x86-64 with AVX2, FMA and F16C: the loops of [`super::body`] compiled for them, and tiles of products.

use super::floats::Width;
use super::{Operations, attend, body, floats, panels};
use crate::KvFormat;
use crate::dense::View;

/// Bytes of weights that a product of few rows asks for ahead of time, past the end of a page, where the processor's own
/// prefetching stops. One row, `kvant bench`'s machine of docs/performance.md: 80–86 % of bandwidth without, 88–95 % with.
pub(crate) const AHEAD: usize = 4096;

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
    Operations { name: "avx2", dot, attend, ahead, add_few, panel, round, softmax, swiglu, swiglu_back };

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
fn panel_avx2(width: Width, panel: &[u8], x: View<f32>, out: &mut floats::Products) {
    floats::multiply::<Fused>(width, panel, x, out);
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

#[cfg(target_arch = "x86_64")]
impl floats::Tile for Fused {
    #[inline(always)]
    fn tile<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; floats::ROWS]; T] {
        let columns = panel.len() / (floats::ROWS * width.bytes());
        assert!(x.iter().all(|x| x.len() == columns), "a number for every column");
        let x = x.map(<[f32]>::as_ptr);
        // SAFETY: this type is reached through `panel` alone, hence through an `Avx2` token; the panel has `columns`
        // columns of sixteen numbers, and so has each row numbers (asserted).
        unsafe {
            match width {
                Width::F32 => tile_avx2::<F32, T>(panel.as_ptr(), columns, x),
                Width::F16 => tile_avx2::<F16, T>(panel.as_ptr(), columns, x),
                Width::Bf16 => tile_avx2::<BF16, T>(panel.as_ptr(), columns, x),
            }
        }
    }
}

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Twelve sums at most, two vectors of weights and an activation make fifteen registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile_avx2<const WIDTH: u8, const T: usize>(
    panel: *const u8,
    columns: usize,
    x: [*const f32; T],
) -> [[f32; floats::ROWS]; T] {
    use std::arch::x86_64::*;
    let column_bytes = if WIDTH == F32 { 64 } else { 32 };
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    for column in 0..columns {
        // SAFETY: the caller's: so many columns in the panel and in every row; prefetching reads nothing.
        unsafe {
            let at = panel.add(column * column_bytes);
            if T == 1 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            }
            let load = |half: usize| match WIDTH {
                F32 => _mm256_loadu_ps(at.add(32 * half).cast()),
                F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.add(16 * half).cast())),
                _ => {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(16 * half).cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                }
            };
            let weights = [load(0), load(1)];
            for t in 0..T {
                let x = _mm256_broadcast_ss(&*x[t].add(column));
                sums[t] =
                    [_mm256_fmadd_ps(weights[0], x, sums[t][0]), _mm256_fmadd_ps(weights[1], x, sums[t][1])];
            }
        }
    }
    sums.map(bytemuck::cast)
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

fn ahead(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint alone, inside the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
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

fn panel(width: Width, panel: &[u8], x: View<f32>, out: &mut floats::Products) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        panel_avx2(width, panel, x, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    (super::scalar::OPERATIONS.panel)(width, panel, x, out);
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
