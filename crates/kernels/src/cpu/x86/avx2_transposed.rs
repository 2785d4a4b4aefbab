//! Panels on AVX2 with many rows of activations: eight of these stand in the lanes of a vector, and codes of the matrix are
//! opened once for all of them, so that what remains of a product is little more than its multiplications.
//!
//! Figures and commands: docs/performance.md, "Kernels of integer codes".
//!
//! Left out: signed levels, where one or the other sign has to be moved at every product, however they stand.

use super::avx2_integers::{pairs, side_by_side, zero_point, zero_point_factors};
use super::simd::Eight;
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel};
use crate::cpu::codes::packed_activations::{self, PackedChunk};
use crate::cpu::generic::simd::SimdInt8;
use crate::cpu::generic::unpack::{Factors, Scales, code_bytes, level_table, quads};
use crate::cpu::instruction_set::ManyRows;
use crate::cpu::prefetch::prefetch;
use crate::shared::Shared;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

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
    zero_point_factors: [i32; LANES],
    /// The chunk's own scale.
    scale: [f32; LANES],
    /// What is multiplied with the activations' sum.
    shift: [f32; LANES],
}

/// What eight chunks of a panel share, of each row: a scale and another one, of the minima.
type SharedScales = [[f32; LANES]; 2];

/// Results of eight rows of activations (lanes) with each row of a panel.
type Totals = [[f32; LANES]; LANES];

/// Rows of activations that it multiplies at once.
const AT_ONCE: usize = VECTORS * LANES;

/// The kernel: for codes without a sign, and whole vectors of rows.
pub(super) const KERNEL: ManyRows = ManyRows {
    group_rows: LANES,
    row_count: |matrix, rows| match matrix.code_layout {
        CodeLayout::Table(_) | CodeLayout::Bytes => 0,
        _ => rows / AT_ONCE * AT_ONCE,
    },
    zero_point,
    pack: packed_activations::pack::<LANES, true>,
    multiply,
};

#[target_feature(enable = "avx2,fma,f16c")]
fn multiply(matrix: &CodeMatrix, panels: Range<usize>, packed: &[f32], rows: Range<usize>, y: &Shared<f32>) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    let (chunks, packed): (usize, &[PackedChunk<LANES>]) = (matrix.chunks(), bytemuck::cast_slice(packed));
    let mut memory = [[[[0.0; LANES]; LANES]; NEAR]; PASSING];
    for (near, packed) in packed.chunks(NEAR * chunks).enumerate() {
        for first in panels.clone().step_by(PASSING) {
            let totals = &mut memory[..PASSING.min(panels.end - first)];
            totals.as_flattened_mut().as_flattened_mut().fill([0.0; LANES]);
            product(matrix, first, packed, totals);
            for vector in 0..packed.len() / chunks {
                let x = rows.start + (near * NEAR + vector) * LANES;
                // SAFETY: each task has its own panels.
                unsafe { write(matrix, y, x, first, vector, totals) };
            }
        }
    }
}

/// Writes the results of panels from `first` on with rows `x` to `x + 8` of the activations.
///
/// # Safety
/// Nobody else writes these panels' results meanwhile.
#[target_feature(enable = "avx2")]
unsafe fn write(
    matrix: &CodeMatrix,
    y: &Shared<f32>,
    x: usize,
    first: usize,
    vector: usize,
    totals: &[[Totals; NEAR]],
) {
    // Results lie far apart, and are asked for before what they are made of is turned.
    for lane in 0..LANES {
        // SAFETY: the caller's promise; nothing is read.
        let results = unsafe { y.part((x + lane) * matrix.rows + first * LANES, 1) }.as_ptr();
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
            let count = LANES.min(matrix.rows - start);
            // SAFETY: the caller's promise.
            let out = unsafe { y.part((x + lane) * matrix.rows + start, count) };
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

/// Adds to `totals` the products of panels from `first` on with each vector of activations: `packed` has all chunks of one
/// after the other.
#[target_feature(enable = "avx2,fma,f16c")]
fn product(matrix: &CodeMatrix, first: usize, packed: &[PackedChunk<LANES>], totals: &mut [[Totals; NEAR]]) {
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            match $codes {
                // `KERNEL` takes no rows for these.
                TABLE | BYTES => {}
                SIX => blocks::<$codes, $scales, 2>(matrix, first, packed, totals),
                _ => blocks::<$codes, $scales, 4>(matrix, first, packed, totals),
            }
        };
    }
    for_each_layout!(matrix, run)
}

/// Up to eight chunks at a time, opened for all activations. `R` rows of the panel go together.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn blocks<const CODES: u8, const SCALES: u8, const R: usize>(
    matrix: &CodeMatrix,
    first: usize,
    packed: &[PackedChunk<LANES>],
    totals: &mut [[Totals; NEAR]],
) {
    const NONE: Open = Open {
        quads: [[0; LANES]; 8],
        factors: [[0; LANES]; 2],
        zero_point_factors: [0; LANES],
        scale: [0.0; LANES],
        shift: [0.0; LANES],
    };
    let (chunks, zero_point) = (matrix.chunks(), matrix.code_layout.zero_point());
    let mut memory = [NONE; SHARING];
    for begin in (0..chunks).step_by(SHARING) {
        let count = SHARING.min(chunks - begin);
        let opened = &mut memory[..count];
        for (passing, totals) in totals.iter_mut().enumerate() {
            let panel = matrix.panel(first + passing);
            // SAFETY: a panel's parts have `chunks` chunks.
            let shared = unsafe {
                for (i, open) in opened.iter_mut().enumerate() {
                    fill::<CODES, SCALES>(panel, begin + i, zero_point, open);
                }
                shared_scales::<SCALES>(panel, begin / SHARING)
            };
            let pairs = packed.chunks_exact(VECTORS * chunks);
            for (packed, totals) in pairs.zip(totals.as_chunks_mut::<VECTORS>().0) {
                let x = [&packed[begin..][..count], &packed[chunks + begin..][..count]];
                for row in (0..LANES).step_by(R) {
                    tile::<CODES, SCALES, R>(opened, &shared, row, x, totals);
                }
            }
        }
    }
}

/// # Safety
/// As of [`Panel`]'s parts: they have chunk `chunk`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn fill<const CODES: u8, const SCALES: u8>(
    panel: Panel,
    chunk: usize,
    zero_point: i16,
    open: &mut Open,
) {
    // SAFETY: the caller's promise; this function has AVX2's features, and `dot`, which needs more, is not called.
    unsafe {
        let simd = Eight::new();
        let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Eight, CODES>());
        let none = level_table(simd, CodeLayout::Bytes);
        for v in 0..4 {
            let (low, upper) = quads::<Eight, CODES, false>(simd, codes, v, none);
            store(&mut open.quads[v], low);
            store(&mut open.quads[v + 4], upper);
        }
        let all_scales = Scales::<SCALES>(panel);
        let scales = all_scales.at::<Eight>(chunk);
        match SCALES {
            BLOCK | AFFINE => {
                let Factors { d, shift, .. } = all_scales.of(simd, chunk);
                store_numbers(&mut open.scale, d);
                store_numbers(&mut open.shift, shift);
            }
            GROUPS_AFFINE => {
                store(&mut open.factors[0], pairs(scales, false));
                store_numbers(&mut open.shift, simd.to_floats(simd.load_u8(scales.add(LANES))));
            }
            _ => {
                let factors = [pairs(scales, true), pairs(scales.add(LANES), true)];
                store(&mut open.factors[0], factors[0]);
                store(&mut open.factors[1], factors[1]);
                store(&mut open.zero_point_factors, zero_point_factors(factors, zero_point));
            }
        }
    }
}

/// # Safety
/// As of [`Panel`]'s parts: they have block `block` where eight chunks share something.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn shared_scales<const SCALES: u8>(panel: Panel, block: usize) -> SharedScales {
    let mut found = [[0.0; LANES]; 2];
    if const { shares(SCALES) } {
        let bytes = Scales::<SCALES>::SHARED_BYTES * LANES;
        // SAFETY: the caller's promise; this function has AVX2's features.
        unsafe {
            let simd = Eight::new();
            let at = panel.shared.as_ptr().add(block * bytes);
            store_numbers(&mut found[0], simd.load_f16(at));
            if SCALES == GROUPS_AFFINE {
                store_numbers(&mut found[1], simd.negate(simd.load_f16(at.add(2 * LANES))));
            }
        }
    }
    found
}

/// Adds to `totals` what some chunks of rows `row` to `row + R` come to.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tile<const CODES: u8, const SCALES: u8, const R: usize>(
    opened: &[Open],
    shared: &SharedScales,
    row: usize,
    x: [&[PackedChunk<LANES>]; VECTORS],
    totals: &mut [Totals; VECTORS],
) {
    // Quads whose sums 16 bits hold.
    let full = match CODES {
        FOUR => 8,
        FIVE => 4,
        _ => 2,
    };
    let zero = [[_mm256_setzero_si256(); VECTORS]; R];
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
    if const { !shares(SCALES) } {
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
                            let factor = match SCALES {
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
            let [first, second] = [integers_of(&x.corrections[0]), integers_of(&x.corrections[1])];
            let both = side_by_side(first, second);
            for r in 0..R {
                let integer = match SCALES {
                    BLOCK => _mm256_add_epi32(integers[r][a], first),
                    HALF_GROUPS => {
                        let factors = _mm256_set1_epi32(open.zero_point_factors[row + r]);
                        _mm256_add_epi32(integers[r][a], _mm256_madd_epi16(factors, both))
                    }
                    _ => integers[r][a],
                };
                let (whole, scale) = (_mm256_cvtepi32_ps(integer), numbers(&x.scales));
                let sum = &mut sums[r][a];
                if const { shares(SCALES) } {
                    *sum = _mm256_fmadd_ps(whole, scale, *sum);
                } else {
                    let d = _mm256_set1_ps(open.scale[row + r]);
                    *sum = _mm256_fmadd_ps(d, _mm256_mul_ps(whole, scale), *sum);
                }
                if SCALES == AFFINE {
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
            if const { shares(SCALES) } {
                sum = _mm256_fmadd_ps(_mm256_set1_ps(shared[0][row + r]), sum, numbers(total));
            }
            if SCALES == GROUPS_AFFINE {
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
