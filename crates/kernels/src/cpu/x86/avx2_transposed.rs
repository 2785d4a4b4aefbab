//! Multiplies integer codes with AVX2 for many rows of activations. A vector has eight lanes, one for each of eight
//! rows of activations. The kernel unpacks the codes of a panel one time for all these rows. So almost all of its
//! instructions belong to the multiplications.
//!
//! A panel is eight rows of the matrix, stored side by side. A chunk is 32 columns of a panel. A quad is four
//! consecutive columns of all rows of a panel. A superblock is eight chunks that share scales. The file
//! `codes/layout.rs` describes the layout.
//!
//! Measurements and commands: docs/performance.md, "Kernels of integer codes".
//!
//! Not covered here: signed levels; see `avx2_codes.rs`. The first operand of `vpmaddubsw` is unsigned. So every
//! product with a signed level would need more instructions, which move the sign of the level to the activation.

use super::avx2_integers::{interleave, load_pairs, zero_point, zero_point_factors};
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

/// Number of rows of a panel. It is also the number of lanes of a vector.
const LANES: usize = 8;
/// Number of vectors of activations that the inner loop multiplies with each loaded quad.
const VECTORS: usize = 2;
/// Number of vectors of activations in a block. Their chunks of one superblock stay in the first-level cache during the
/// loop over the panels.
const CACHED_VECTORS: usize = 4;
/// Maximum number of panels whose totals are in memory at the same time.
const PANELS_AT_ONCE: usize = 8;

/// An unpacked chunk of a panel. The innermost array of each field has one entry per row of the panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct UnpackedChunk {
    /// The codes. The first index is the quad. An entry is the four codes of a row, one per byte.
    quads: [[i32; LANES]; 8],
    /// The integer scales, which multiply the 16-bit sums, for each half of the chunk. An entry has the scale two
    /// times, as two 16-bit integers. If the chunk has one integer scale, only the first array is used.
    factors: [[i32; LANES]; 2],
    /// The integer scales of the two halves times the zero point, as two 16-bit integers. Used only if the halves have
    /// their own scales.
    zero_point_factors: [i32; LANES],
    /// The float scale of the chunk. Used only if the layout has no superblock scales.
    scale: [f32; LANES],
    /// The minimum. It multiplies the sum of the activations in the chunk.
    minimum: [f32; LANES],
}

/// The superblock scales of a panel, one entry per row: first the scale of the integer scales, then the negated scale
/// of the integer minima.
type SharedScales = [[f32; LANES]; 2];

/// Results of one panel with eight rows of activations. The first index is the row of the panel. The second index is
/// the lane, which is the row of activations.
type Totals = [[f32; LANES]; LANES];

/// Number of rows of activations that the kernel multiplies at the same time.
const ROWS_AT_ONCE: usize = VECTORS * LANES;

/// The kernel. It multiplies only unsigned codes, and only whole groups of [`ROWS_AT_ONCE`] rows of activations.
pub(super) const KERNEL: ManyRows = ManyRows {
    group_rows: LANES,
    row_count: |matrix, rows| match matrix.code_layout {
        CodeLayout::Table(_) | CodeLayout::Bytes => 0,
        _ => rows / ROWS_AT_ONCE * ROWS_AT_ONCE,
    },
    zero_point,
    pack: packed_activations::pack::<LANES, true>,
    multiply,
};

/// Multiplies the panels `panels` with the packed rows of activations; see [`ManyRows::multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply(matrix: &CodeMatrix, panels: Range<usize>, packed: &[f32], rows: Range<usize>, y: &Shared<f32>) {
    assert_eq!(matrix.panel_rows, LANES, "rows of a panel");
    let (chunks, packed): (usize, &[PackedChunk<LANES>]) = (matrix.chunks(), bytemuck::cast_slice(packed));
    let mut memory = [[[[0.0; LANES]; LANES]; CACHED_VECTORS]; PANELS_AT_ONCE];
    for (block, packed) in packed.chunks(CACHED_VECTORS * chunks).enumerate() {
        for first_panel in panels.clone().step_by(PANELS_AT_ONCE) {
            let totals = &mut memory[..PANELS_AT_ONCE.min(panels.end - first_panel)];
            totals.as_flattened_mut().as_flattened_mut().fill([0.0; LANES]);
            product(matrix, first_panel, packed, totals);
            for vector in 0..packed.len() / chunks {
                let x = rows.start + (block * CACHED_VECTORS + vector) * LANES;
                // SAFETY: each task has its own panels, so no other thread accesses the results of these panels.
                unsafe { write_results(matrix, y, x, first_panel, vector, totals) };
            }
        }
    }
}

/// Writes the results of `totals.len()` panels, beginning with panel `first_panel`, for rows `x..x + 8` of the
/// activations. `vector` is the index of these rows in each entry of `totals`.
///
/// # Safety
/// No other thread accesses the results of these panels during the call.
#[target_feature(enable = "avx2")]
unsafe fn write_results(
    matrix: &CodeMatrix,
    y: &Shared<f32>,
    x: usize,
    first_panel: usize,
    vector: usize,
    totals: &[[Totals; CACHED_VECTORS]],
) {
    // The results of different rows of activations are far apart in memory. So their prefetch starts before the totals
    // are transposed.
    for lane in 0..LANES {
        // SAFETY: the caller guarantees that no other thread accesses these results. Only the address is used.
        let results = unsafe { y.part((x + lane) * matrix.rows + first_panel * LANES, 1) }.as_ptr();
        for line in (0..totals.len() * LANES).step_by(16) {
            prefetch::<true>(results.wrapping_add(line).cast());
        }
    }
    let mut memory = [[[0.0; LANES]; LANES]; PANELS_AT_ONCE];
    let transposed_totals = &mut memory[..totals.len()];
    for (transposed_totals, totals) in transposed_totals.iter_mut().zip(totals) {
        *transposed_totals = transpose(&totals[vector]);
    }
    // The outer loop runs over the rows of activations, because the results of different rows are far apart in memory.
    for lane in 0..LANES {
        for (panel_index, transposed_totals) in transposed_totals.iter().enumerate() {
            let start = (first_panel + panel_index) * LANES;
            let count = LANES.min(matrix.rows - start);
            // SAFETY: the caller guarantees that no other thread accesses these results.
            let out = unsafe { y.part((x + lane) * matrix.rows + start, count) };
            match out.first_chunk_mut() {
                // A vector store is faster here than a call of `memcpy`, because a row has only 32 bytes.
                Some(out) => store_floats(out, load_floats(&transposed_totals[lane])),
                None => out.copy_from_slice(&transposed_totals[lane][..count]),
            }
        }
    }
}

/// Returns the transposed 8 × 8 matrix. The three steps interleave single elements, pairs of elements, and halves of
/// rows.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose(rows: &Totals) -> Totals {
    let mut a = [_mm256_setzero_ps(); LANES];
    for (a, row) in a.iter_mut().zip(rows) {
        *a = load_floats(row);
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
    let mut transposed_totals = [[0.0; LANES]; LANES];
    for i in 0..LANES / 2 {
        store_floats(&mut transposed_totals[i], _mm256_permute2f128_ps::<0x20>(c[i], c[i + 4]));
        store_floats(&mut transposed_totals[i + 4], _mm256_permute2f128_ps::<0x31>(c[i], c[i + 4]));
    }
    transposed_totals
}

/// Multiplies `totals.len()` panels, beginning with panel `first_panel`, with each vector of activations, and adds the
/// products to `totals`. `packed` has all chunks of the first vector, followed by all chunks of the second vector, and
/// so on.
#[target_feature(enable = "avx2,fma,f16c")]
fn product(
    matrix: &CodeMatrix,
    first_panel: usize,
    packed: &[PackedChunk<LANES>],
    totals: &mut [[Totals; CACHED_VECTORS]],
) {
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            match $codes {
                // `KERNEL.row_count` returns 0 for these layouts, so this arm never runs.
                TABLE | BYTES => {}
                SIX => blocks::<$codes, $scales, 2>(matrix, first_panel, packed, totals),
                _ => blocks::<$codes, $scales, 4>(matrix, first_panel, packed, totals),
            }
        };
    }
    for_each_layout!(matrix, run)
}

/// Unpacks the chunks of one superblock of a panel (at most eight chunks) and multiplies them with all activations. The
/// inner loop multiplies `R` rows of the panel at the same time.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn blocks<const CODES: u8, const SCALES: u8, const R: usize>(
    matrix: &CodeMatrix,
    first_panel: usize,
    packed: &[PackedChunk<LANES>],
    totals: &mut [[Totals; CACHED_VECTORS]],
) {
    const NONE: UnpackedChunk = UnpackedChunk {
        quads: [[0; LANES]; 8],
        factors: [[0; LANES]; 2],
        zero_point_factors: [0; LANES],
        scale: [0.0; LANES],
        minimum: [0.0; LANES],
    };
    let (chunks, zero_point) = (matrix.chunks(), matrix.code_layout.zero_point());
    let mut memory = [NONE; SUPERBLOCK_CHUNKS];
    for begin in (0..chunks).step_by(SUPERBLOCK_CHUNKS) {
        let count = SUPERBLOCK_CHUNKS.min(chunks - begin);
        let unpacked_chunks = &mut memory[..count];
        for (panel_index, totals) in totals.iter_mut().enumerate() {
            let panel = matrix.panel(first_panel + panel_index);
            // SAFETY: the panel has `chunks` chunks, and `begin + i` is less than `chunks`. If the layout has
            // superblock scales, `chunks` is a multiple of eight, so the panel also has this superblock.
            let shared = unsafe {
                for (i, unpacked) in unpacked_chunks.iter_mut().enumerate() {
                    unpack_chunk::<CODES, SCALES>(panel, begin + i, zero_point, unpacked);
                }
                shared_scales::<SCALES>(panel, begin / SUPERBLOCK_CHUNKS)
            };
            let vector_pairs = packed.chunks_exact(VECTORS * chunks);
            for (packed, totals) in vector_pairs.zip(totals.as_chunks_mut::<VECTORS>().0) {
                let x = [&packed[begin..][..count], &packed[chunks + begin..][..count]];
                for row in (0..LANES).step_by(R) {
                    tile::<CODES, SCALES, R>(unpacked_chunks, &shared, row, x, totals);
                }
            }
        }
    }
}

/// Unpacks the codes and scales of chunk `chunk` of a panel to `unpacked`. `zero_point` is the zero point of the codes.
///
/// # Safety
/// The panel has this chunk.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn unpack_chunk<const CODES: u8, const SCALES: u8>(
    panel: Panel,
    chunk: usize,
    zero_point: i16,
    unpacked: &mut UnpackedChunk,
) {
    // SAFETY: the caller guarantees that the panel has this chunk. This function has the target features AVX2, FMA and
    // F16C. `Eight::dot` also needs AVX-VNNI, but this function does not call it.
    unsafe {
        let simd = Eight::new();
        let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Eight, CODES>());
        let none = level_table(simd, CodeLayout::Bytes);
        for v in 0..4 {
            let (low, upper) = quads::<Eight, CODES, false>(simd, codes, v, none);
            store_integers(&mut unpacked.quads[v], low);
            store_integers(&mut unpacked.quads[v + 4], upper);
        }
        let all_scales = Scales::<SCALES>(panel);
        let scales = all_scales.at::<Eight>(chunk);
        match SCALES {
            BLOCK | AFFINE => {
                let Factors { d, minimum, .. } = all_scales.load(simd, chunk);
                store_floats(&mut unpacked.scale, d);
                store_floats(&mut unpacked.minimum, minimum);
            }
            GROUPS_AFFINE => {
                store_integers(&mut unpacked.factors[0], load_pairs(scales, false));
                store_floats(&mut unpacked.minimum, simd.to_floats(simd.load_u8(scales.add(LANES))));
            }
            _ => {
                let factors = [load_pairs(scales, true), load_pairs(scales.add(LANES), true)];
                store_integers(&mut unpacked.factors[0], factors[0]);
                store_integers(&mut unpacked.factors[1], factors[1]);
                store_integers(&mut unpacked.zero_point_factors, zero_point_factors(factors, zero_point));
            }
        }
    }
}

/// Returns the scales of superblock `block`. Returns zeros if the layout has no superblock scales.
///
/// # Safety
/// The panel has this superblock if the layout has superblock scales.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn shared_scales<const SCALES: u8>(panel: Panel, block: usize) -> SharedScales {
    let mut found = [[0.0; LANES]; 2];
    if const { has_shared_scale(SCALES) } {
        let bytes = Scales::<SCALES>::SHARED_BYTES * LANES;
        // SAFETY: the caller guarantees that the panel has this superblock. This function has the target features AVX2,
        // FMA and F16C.
        unsafe {
            let simd = Eight::new();
            let at = panel.shared.as_ptr().add(block * bytes);
            store_floats(&mut found[0], simd.load_f16(at));
            if SCALES == GROUPS_AFFINE {
                store_floats(&mut found[1], simd.negate(simd.load_f16(at.add(2 * LANES))));
            }
        }
    }
    found
}

/// Multiplies rows `row..row + R` of the panel with the activations `x`, for the chunks in `unpacked_chunks`. Adds the
/// products to `totals`. `shared` has the superblock scales of these chunks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tile<const CODES: u8, const SCALES: u8, const R: usize>(
    unpacked_chunks: &[UnpackedChunk],
    shared: &SharedScales,
    row: usize,
    x: [&[PackedChunk<LANES>]; VECTORS],
    totals: &mut [Totals; VECTORS],
) {
    // Number of quads whose products can be added in 16 bits without overflow.
    let full = match CODES {
        FOUR => 8,
        FIVE => 4,
        _ => 2,
    };
    let zero = [[_mm256_setzero_si256(); VECTORS]; R];
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
    if const { !has_shared_scale(SCALES) } {
        for r in 0..R {
            for a in 0..VECTORS {
                sums[r][a] = load_floats(&totals[a][row + r]);
            }
        }
    }
    for (unpacked, x) in unpacked_chunks.iter().zip(x[0].iter().zip(x[1])) {
        let x = [x.0, x.1];
        let (mut integers, mut partial_sums) = (zero, zero);
        // A macro unrolls the loop over the quads, because the compiler does not unroll a loop that contains
        // `keep_in_register`. The instructions of a loop would compete with the multiplications.
        macro_rules! quads {
            ($($q:literal)*) => {
                $({
                    let codes = [load_codes(&x[0].codes[$q]), load_codes(&x[1].codes[$q])];
                    for r in 0..R {
                        let quad = _mm256_set1_epi32(unpacked.quads[$q][row + r]);
                        for a in 0..VECTORS {
                            let products = _mm256_maddubs_epi16(quad, codes[a]);
                            partial_sums[r][a] = match $q % full {
                                0 => products,
                                _ => _mm256_add_epi16(partial_sums[r][a], products),
                            };
                            keep_in_register(&mut partial_sums[r][a]);
                        }
                    }
                    if ($q + 1) % full == 0 {
                        for r in 0..R {
                            let factor = match SCALES {
                                GROUPS_AFFINE => _mm256_set1_epi32(unpacked.factors[0][row + r]),
                                HALF_GROUPS => _mm256_set1_epi32(unpacked.factors[$q / 4][row + r]),
                                _ => _mm256_set1_epi16(1),
                            };
                            for a in 0..VECTORS {
                                let wide = _mm256_madd_epi16(partial_sums[r][a], factor);
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
            let [first, second] = [load_integers(&x.corrections[0]), load_integers(&x.corrections[1])];
            let both = interleave(first, second);
            for r in 0..R {
                let integer = match SCALES {
                    BLOCK => _mm256_add_epi32(integers[r][a], first),
                    HALF_GROUPS => {
                        let factors = _mm256_set1_epi32(unpacked.zero_point_factors[row + r]);
                        _mm256_add_epi32(integers[r][a], _mm256_madd_epi16(factors, both))
                    }
                    _ => integers[r][a],
                };
                let (chunk_sum, scale) = (_mm256_cvtepi32_ps(integer), load_floats(&x.scales));
                let sum = &mut sums[r][a];
                if const { has_shared_scale(SCALES) } {
                    *sum = _mm256_fmadd_ps(chunk_sum, scale, *sum);
                } else {
                    let d = _mm256_set1_ps(unpacked.scale[row + r]);
                    *sum = _mm256_fmadd_ps(d, _mm256_mul_ps(chunk_sum, scale), *sum);
                }
                if SCALES == AFFINE {
                    let minimum = _mm256_set1_ps(unpacked.minimum[row + r]);
                    *sum = _mm256_fmadd_ps(minimum, load_floats(&x.scaled_sums), *sum);
                }
            }
        }
    }
    for r in 0..R {
        for a in 0..VECTORS {
            let total = &mut totals[a][row + r];
            let mut sum = sums[r][a];
            if const { has_shared_scale(SCALES) } {
                sum = _mm256_fmadd_ps(_mm256_set1_ps(shared[0][row + r]), sum, load_floats(total));
            }
            if SCALES == GROUPS_AFFINE {
                let mut minima = _mm256_setzero_ps();
                for (unpacked, x) in unpacked_chunks.iter().zip(x[a]) {
                    let minimum = _mm256_set1_ps(unpacked.minimum[row + r]);
                    minima = _mm256_fmadd_ps(minimum, load_floats(&x.scaled_sums), minima);
                }
                sum = _mm256_fmadd_ps(_mm256_set1_ps(shared[1][row + r]), minima, sum);
            }
            store_floats(total, sum);
        }
    }
}

/// Forces the compiler to compute `x` at this point. Without this function, the compiler processes the quads row by row
/// and spills most quads to memory.
#[target_feature(enable = "avx2")]
#[inline]
fn keep_in_register(x: &mut __m256i) {
    // SAFETY: the assembly contains only a comment and no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * x, options(nomem, nostack, preserves_flags)) };
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_codes(codes: &[i8; 4 * LANES]) -> __m256i {
    // SAFETY: the array has 32 bytes, the size of a vector.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_integers(x: &[i32; LANES]) -> __m256i {
    // SAFETY: the array has 32 bytes, the size of a vector.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_floats(x: &[f32; LANES]) -> __m256 {
    // SAFETY: the array has eight floats, the size of a vector.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_integers(out: &mut [i32; LANES], x: __m256i) {
    // SAFETY: the array has 32 bytes, the size of a vector.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_floats(out: &mut [f32; LANES], x: __m256) {
    // SAFETY: the array has eight floats, the size of a vector.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
}
