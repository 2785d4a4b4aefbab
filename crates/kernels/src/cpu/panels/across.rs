//! Panels on AVX2 with many rows of activations: eight of these stand in the lanes of a vector, and codes of the matrix are
//! opened once for all of them, so that what remains of a product is little more than its multiplications.
//!
//! `cargo bench -p kvant-kernels --bench integers`, 128 rows, two cores of machine E (docs/performance.md), of peak:
//!
//! ```text
//!                                             q4_0 | q4_k | q6_k
//! rows of the matrix in lanes, rows apart     57 % | 54 % | 36 %
//! rows of the matrix in lanes, rows together  69 % | 60 % | 43 %
//! rows of activations in lanes                78 % | 63 % | 65 %
//! ```
//!
//! Left out: signed levels, where one or the other sign has to be moved at every product, however they stand.

use super::avx2::{less, pairs, side_by_side};
use super::chunk::{Factors, Scales, code_bytes, quads, table};
use super::kinds::*;
use super::outliers::{Outliers, OutliersOfRows};
use super::together::{Together, lay};
use super::vector::Vector;
use super::vnni::Eight;
use super::{Activations, Coding, Panel, Panels, SHARING, Scheme};
use crate::backend::Matrix;
use crate::cpu::prefetch;
use crate::cpu::tokens::Avx2;
use crate::shared::Shared;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a panel, and lanes.
const LANES: usize = 8;
/// Vectors of activations that share what is loaded of the matrix.
const VECTORS: usize = 2;
/// Vectors of activations whose eight chunks stay in the nearest cache while panels pass.
const NEAR: usize = 4;
/// Panels that pass.
const PASSING: usize = 8;

/// What a chunk of a panel becomes. Of each row:
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Open {
    /// Its codes, quad by quad.
    quads: [[i32; LANES]; 8],
    /// What sums of 16 bits are multiplied by, in either half of the chunk, twice.
    factors: [[i32; LANES]; 2],
    /// Where halves have scales of their own: what the halves' sums of activations are multiplied by.
    less: [i32; LANES],
    /// The chunk's own scale.
    scale: [f32; LANES],
    /// What is multiplied with the activations' sum.
    shift: [f32; LANES],
}

/// What eight chunks of a panel share, of each row: a scale and another one, of the minima.
type SharedScales = [[f32; LANES]; 2];

/// Results of eight rows of activations (lanes) with each row of a panel.
type Totals = [[f32; LANES]; LANES];

/// Multiplies whole groups of rows of `x`, and says where the next row is.
pub(super) fn multiply(
    token: Avx2,
    matrix: &Panels,
    x: &Activations,
    (y, outliers): (&Shared<f32>, Option<&Outliers>),
) -> usize {
    const TOGETHER: usize = VECTORS * LANES;
    let end = match matrix.coding {
        Coding::Table(_) | Coding::Bytes => 0,
        _ => x.rows() / TOGETHER * TOGETHER,
    };
    if end == 0 {
        return 0;
    }
    assert_eq!(matrix.kernel.rows(), LANES, "rows of a panel");
    let chunks = matrix.chunks();
    let outliers = outliers.map(|all| OutliersOfRows::new(matrix, all, 0..end));
    lay::<LANES, true, _>(matrix, x, 0..end, super::avx2::offset(matrix), |laid| {
        let tasks = matrix.tasks();
        matrix.backend.pool().run(tasks.len() - 1, &|task| {
            let mut memory = [[[[0.0; LANES]; LANES]; NEAR]; PASSING];
            for (near, laid) in laid.chunks(NEAR * chunks).enumerate() {
                for first in (tasks[task]..tasks[task + 1]).step_by(PASSING) {
                    let totals = &mut memory[..PASSING.min(tasks[task + 1] - first)];
                    totals.as_flattened_mut().as_flattened_mut().fill([0.0; LANES]);
                    product(token, matrix, first, laid, totals);
                    for vector in 0..laid.len() / chunks {
                        let x = (near * NEAR + vector) * LANES;
                        // SAFETY: the token proves the features; each task has its own panels.
                        unsafe { write(matrix, y, x, first, vector, totals) };
                    }
                }
            }
            if let Some(outliers) = &outliers {
                matrix.add_outliers(tasks[task]..tasks[task + 1], outliers, y);
            }
        });
    });
    end
}

/// Writes the results of panels from `first` on with rows `x` to `x + 8` of the activations.
///
/// # Safety
/// Nobody else writes these panels' results meanwhile.
#[target_feature(enable = "avx2")]
unsafe fn write(
    matrix: &Panels,
    y: &Shared<f32>,
    x: usize,
    first: usize,
    vector: usize,
    totals: &[[Totals; NEAR]],
) {
    // Results lie far apart, and are asked for before what they are made of is turned.
    for lane in 0..LANES {
        // SAFETY: the caller's; nothing is read.
        let results = unsafe { y.part((x + lane) * matrix.rows() + first * LANES, 1) }.as_ptr();
        for line in (0..totals.len() * LANES).step_by(16) {
            prefetch::<true>(results.wrapping_add(line).cast());
        }
    }
    let mut memory = [[[0.0; LANES]; LANES]; PASSING];
    let turned = &mut memory[..totals.len()];
    for (turned, totals) in turned.iter_mut().zip(totals) {
        *turned = transposed(&totals[vector]);
    }
    // Row by row of the activations, whose results lie far apart.
    for lane in 0..LANES {
        for (passing, turned) in turned.iter().enumerate() {
            let start = (first + passing) * LANES;
            let count = LANES.min(matrix.rows() - start);
            // SAFETY: the caller's.
            let out = unsafe { y.part((x + lane) * matrix.rows() + start, count) };
            match out.first_chunk_mut() {
                // By an instruction: a call for so few bytes cost a tenth of a prompt.
                Some(out) => store_numbers(out, numbers(&turned[lane])),
                None => out.copy_from_slice(&turned[lane][..count]),
            }
        }
    }
}

/// Rows and columns exchanged: pairs, then pairs of pairs, then halves.
#[target_feature(enable = "avx2")]
#[inline]
fn transposed(rows: &Totals) -> Totals {
    let mut a = [_mm256_setzero_ps(); LANES];
    for (a, row) in a.iter_mut().zip(rows) {
        *a = numbers(row);
    }
    let mut b = a;
    for i in 0..LANES / 2 {
        b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    let mut c = b;
    for i in 0..2 {
        for j in 0..2 {
            let (low, high) = (b[4 * i + j], b[4 * i + 2 + j]);
            c[4 * i + 2 * j] = _mm256_shuffle_ps::<0b01_00_01_00>(low, high);
            c[4 * i + 2 * j + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(low, high);
        }
    }
    let mut turned = [[0.0; LANES]; LANES];
    for i in 0..LANES / 2 {
        store_numbers(&mut turned[i], _mm256_permute2f128_ps::<0x20>(c[i], c[i + 4]));
        store_numbers(&mut turned[i + 4], _mm256_permute2f128_ps::<0x31>(c[i], c[i + 4]));
    }
    turned
}

/// `totals`, zero at first, of panels from `first` on with each vector of activations: `laid` has all chunks of one after the
/// other.
fn product(
    _token: Avx2,
    matrix: &Panels,
    first: usize,
    laid: &[Together<LANES>],
    totals: &mut [[Totals; NEAR]],
) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn of(matrix: &Panels, first: usize, laid: &[Together<LANES>], totals: &mut [[Totals; NEAR]]) {
        macro_rules! run {
            ($coding:ident, $scheme:ident) => {
                match $coding {
                    TABLE | BYTES => unreachable!("signed levels"),
                    SIX => blocks::<$coding, $scheme, 2>(matrix, first, laid, totals),
                    _ => blocks::<$coding, $scheme, 4>(matrix, first, laid, totals),
                }
            };
        }
        for_each_kind!(matrix, run)
    }
    // SAFETY: the token proves the features.
    unsafe { of(matrix, first, laid, totals) }
}

/// Up to eight chunks at a time, opened for all activations. `R` rows of the panel go together.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn blocks<const CODING: u8, const SCHEME: u8, const R: usize>(
    matrix: &Panels,
    first: usize,
    laid: &[Together<LANES>],
    totals: &mut [[Totals; NEAR]],
) {
    const NONE: Open = Open {
        quads: [[0; LANES]; 8],
        factors: [[0; LANES]; 2],
        less: [0; LANES],
        scale: [0.0; LANES],
        shift: [0.0; LANES],
    };
    let (chunks, offset) = (matrix.chunks(), matrix.coding.offset());
    let mut memory = [NONE; SHARING];
    for begin in (0..chunks).step_by(SHARING) {
        let count = SHARING.min(chunks - begin);
        let opened = &mut memory[..count];
        for (passing, totals) in totals.iter_mut().enumerate() {
            let panel = matrix.panel(first + passing);
            // SAFETY: a panel's parts have `chunks` chunks.
            let shared = unsafe {
                for (i, open) in opened.iter_mut().enumerate() {
                    fill::<CODING, SCHEME>(panel, begin + i, offset, open);
                }
                shared_scales::<SCHEME>(panel, begin / SHARING)
            };
            let pairs = laid.chunks_exact(VECTORS * chunks);
            for (laid, totals) in pairs.zip(totals.as_chunks_mut::<VECTORS>().0) {
                let x = [&laid[begin..][..count], &laid[chunks + begin..][..count]];
                for row in (0..LANES).step_by(R) {
                    tile::<CODING, SCHEME, R>(opened, &shared, row, x, totals);
                }
            }
        }
    }
}

/// # Safety
/// As of [`Panel`]'s parts: they have chunk `chunk`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn fill<const CODING: u8, const SCHEME: u8>(panel: Panel, chunk: usize, offset: i16, open: &mut Open) {
    // SAFETY: the caller's.
    unsafe {
        let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Eight, CODING>());
        let none = table::<Eight>(Coding::Bytes);
        for v in 0..4 {
            let (low, upper) = quads::<Eight, CODING, false>(codes, v, none);
            store(&mut open.quads[v], low);
            store(&mut open.quads[v + 4], upper);
        }
        let all_scales = Scales::<SCHEME>(panel);
        let scales = all_scales.at::<Eight>(chunk);
        match SCHEME {
            BLOCK | AFFINE => {
                let Factors { d, shift, .. } = all_scales.of::<Eight>(chunk);
                store_numbers(&mut open.scale, d);
                store_numbers(&mut open.shift, shift);
            }
            GROUPS_AFFINE => {
                store(&mut open.factors[0], pairs(scales, false));
                store_numbers(&mut open.shift, Eight::numbers(Eight::unsigned(scales.add(LANES))));
            }
            _ => {
                let factors = [pairs(scales, true), pairs(scales.add(LANES), true)];
                store(&mut open.factors[0], factors[0]);
                store(&mut open.factors[1], factors[1]);
                store(&mut open.less, less(factors, offset));
            }
        }
    }
}

/// # Safety
/// As of [`Panel`]'s parts: they have block `block` where eight chunks share something.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn shared_scales<const SCHEME: u8>(panel: Panel, block: usize) -> SharedScales {
    let mut found = [[0.0; LANES]; 2];
    if const { shares(SCHEME) } {
        let bytes = Scales::<SCHEME>::SHARED_BYTES * LANES;
        // SAFETY: the caller's.
        unsafe {
            let at = panel.shared.as_ptr().add(block * bytes);
            store_numbers(&mut found[0], Eight::halves(at));
            if SCHEME == GROUPS_AFFINE {
                store_numbers(&mut found[1], Eight::negative(Eight::halves(at.add(2 * LANES))));
            }
        }
    }
    found
}

/// Adds to `totals` what some chunks of rows `row` to `row + R` come to.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tile<const CODING: u8, const SCHEME: u8, const R: usize>(
    opened: &[Open],
    shared: &SharedScales,
    row: usize,
    x: [&[Together<LANES>]; VECTORS],
    totals: &mut [Totals; VECTORS],
) {
    // Quads whose sums 16 bits hold.
    let full = match CODING {
        FOUR => 8,
        FIVE => 4,
        _ => 2,
    };
    let zero = [[_mm256_setzero_si256(); VECTORS]; R];
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
    if const { !shares(SCHEME) } {
        for r in 0..R {
            for a in 0..VECTORS {
                sums[r][a] = numbers(&totals[a][row + r]);
            }
        }
    }
    for (open, x) in opened.iter().zip(x[0].iter().zip(x[1])) {
        let x = [x.0, x.1];
        let (mut integers, mut parts) = (zero, zero);
        // A loop would be kept as one, for what `now` says, and take its part of what the processor can begin.
        macro_rules! quads {
            ($($q:literal)*) => {
                $({
                    let codes = [load(&x[0].codes[$q]), load(&x[1].codes[$q])];
                    for r in 0..R {
                        let quad = _mm256_set1_epi32(open.quads[$q][row + r]);
                        for a in 0..VECTORS {
                            let products = _mm256_maddubs_epi16(quad, codes[a]);
                            parts[r][a] = match $q % full {
                                0 => products,
                                _ => _mm256_add_epi16(parts[r][a], products),
                            };
                            now(&mut parts[r][a]);
                        }
                    }
                    if ($q + 1) % full == 0 {
                        for r in 0..R {
                            let factor = match SCHEME {
                                GROUPS_AFFINE => _mm256_set1_epi32(open.factors[0][row + r]),
                                HALF_GROUPS => _mm256_set1_epi32(open.factors[$q / 4][row + r]),
                                _ => _mm256_set1_epi16(1),
                            };
                            for a in 0..VECTORS {
                                let wide = _mm256_madd_epi16(parts[r][a], factor);
                                integers[r][a] = match $q < full {
                                    true => wide,
                                    false => _mm256_add_epi32(integers[r][a], wide),
                                };
                            }
                        }
                    }
                })*
            };
        }
        quads!(0 1 2 3 4 5 6 7);
        for a in 0..VECTORS {
            let x = x[a];
            let [first, second] = [integers_of(&x.less[0]), integers_of(&x.less[1])];
            let both = side_by_side(first, second);
            for r in 0..R {
                let integer = match SCHEME {
                    BLOCK => _mm256_add_epi32(integers[r][a], first),
                    HALF_GROUPS => {
                        let less = _mm256_set1_epi32(open.less[row + r]);
                        _mm256_add_epi32(integers[r][a], _mm256_madd_epi16(less, both))
                    }
                    _ => integers[r][a],
                };
                let (whole, scale) = (_mm256_cvtepi32_ps(integer), numbers(&x.scales));
                let sum = &mut sums[r][a];
                if const { shares(SCHEME) } {
                    *sum = _mm256_fmadd_ps(whole, scale, *sum);
                } else {
                    let d = _mm256_set1_ps(open.scale[row + r]);
                    *sum = _mm256_fmadd_ps(d, _mm256_mul_ps(whole, scale), *sum);
                }
                if SCHEME == AFFINE {
                    let shift = _mm256_set1_ps(open.shift[row + r]);
                    *sum = _mm256_fmadd_ps(shift, numbers(&x.scaled), *sum);
                }
            }
        }
    }
    for r in 0..R {
        for a in 0..VECTORS {
            let total = &mut totals[a][row + r];
            let mut sum = sums[r][a];
            if const { shares(SCHEME) } {
                sum = _mm256_fmadd_ps(_mm256_set1_ps(shared[0][row + r]), sum, numbers(total));
            }
            if SCHEME == GROUPS_AFFINE {
                let mut least = _mm256_setzero_ps();
                for (open, x) in opened.iter().zip(x[a]) {
                    let minimum = _mm256_set1_ps(open.shift[row + r]);
                    least = _mm256_fmadd_ps(minimum, numbers(&x.scaled), least);
                }
                sum = _mm256_fmadd_ps(_mm256_set1_ps(shared[1][row + r]), least, sum);
            }
            store_numbers(total, sum);
        }
    }
}

/// Says that `x` is needed now: the compiler would go through the quads row by row, with most of them in memory.
#[target_feature(enable = "avx2")]
#[inline]
fn now(x: &mut __m256i) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * x, options(nomem, nostack, preserves_flags)) };
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(codes: &[i8; 4 * LANES]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn integers_of(x: &[i32; LANES]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn numbers(x: &[f32; LANES]) -> __m256 {
    // SAFETY: eight numbers.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(out: &mut [i32; LANES], x: __m256i) {
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_numbers(out: &mut [f32; LANES], x: __m256) {
    // SAFETY: eight numbers.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
}
