//! Products of integer codes with AMX. `tdpbssd` multiplies sixteen rows of activations with one chunk of sixteen rows
//! of the matrix.
//!
//! ```text
//! for each panel: levels ← its codes as signed bytes; each chunk has eight consecutive quads
//! for each group of sixteen rows of activations, for each chunk:
//!     products (16 × 16) ← tile of activations · tile of levels
//!     for each row t of activations: sums[t] += d · (products[t] · scales · scale of t)
//! ```
//!
//! The product of a chunk's sum and an integer scale stays below 2²⁴, where `f32` holds every integer. So floats give
//! the same bits here as integers do in other kernels. AVX-512 multiplies few rows of activations.

use super::amx_tiles::ConfiguredTiles;
use super::avx512_codes;
use super::simd::Sixteen;
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel};
use crate::cpu::codes::packed_activations::{self, PackedChunk};
use crate::cpu::generic::int8_dot;
use crate::cpu::generic::simd::SimdInt8;
use crate::cpu::generic::unpack::{Factors, Scales, code_bytes, level_table, quads};
use crate::cpu::instruction_set::{CodeKernels, ManyRows};
use crate::scratch;
use crate::shared::Shared;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of activations per tile.
const GROUP: usize = 16;
/// Minimum number of rows of activations for which a tile is faster than AVX-512.
const MIN_TILE_ROWS: usize = 12;
/// Bytes of the levels of a chunk.
const CHUNK_LEVEL_BYTES: usize = CHUNK * ROWS;
/// Groups of activations that stay in the cache during the loop over the panels of a task.
const CACHED_GROUPS: usize = 4;

/// Products of sixteen rows of activations with sixteen rows of the matrix.
#[repr(C, align(64))]
struct Products([[i32; ROWS]; GROUP]);

const EMPTY: Products = Products([[0; ROWS]; GROUP]);

/// The kernels of integer codes of AMX: tiles for many rows, AVX-512 for the remaining rows.
pub(super) const CODES: CodeKernels = CodeKernels {
    many_rows: &[
        ManyRows {
            group_rows: GROUP,
            row_count: |_, rows| if rows % GROUP < MIN_TILE_ROWS { rows / GROUP * GROUP } else { rows },
            zero_point: |_| 0,
            pack: packed_activations::pack::<GROUP, false>,
            multiply: multiply_panels,
        },
        avx512_codes::PACKED,
    ],
    ..avx512_codes::CODES
};

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_panels(
    matrix: &CodeMatrix,
    panels: Range<usize>,
    packed: &[f32],
    rows: Range<usize>,
    y: &Shared<f32>,
) {
    let (chunks, packed): (usize, &[PackedChunk<GROUP>]) = (matrix.chunks(), bytemuck::cast_slice(packed));
    // SAFETY: only the row of AMX in the table of instruction sets has this kernel.
    let _tiles = unsafe { ConfiguredTiles::new(&shapes(matrix.scale_layout)) };
    let mut buffers = [[EMPTY; 2], [EMPTY; 2]];
    scratch::with(panels.len() * chunks * CHUNK_LEVEL_BYTES / size_of::<f32>(), |levels| {
        let levels: &mut [u8] = bytemuck::cast_slice_mut(levels);
        for (panel, levels) in panels.clone().zip(levels.chunks_exact_mut(chunks * CHUNK_LEVEL_BYTES)) {
            unpack(matrix, panel, levels);
        }
        for (block, packed) in packed.chunks(CACHED_GROUPS * chunks).enumerate() {
            for (panel, levels) in panels.clone().zip(levels.chunks_exact(chunks * CHUNK_LEVEL_BYTES)) {
                let mut receive_sums = |group: usize, t: usize, sums: &[f32; ROWS]| {
                    let row = rows.start + (block * CACHED_GROUPS + group) * GROUP + t;
                    if row < rows.end {
                        // SAFETY: each task has its own panels.
                        unsafe { matrix.write_sums(y, row, panel, sums) };
                    }
                };
                multiply(matrix, panel, levels, packed, &mut buffers, &mut receive_sums);
            }
        }
    });
}

/// Returns the shapes of the eight tiles, as rows and bytes per row. Four tiles have the shape of products, of which
/// two are used. Then there are two pairs of activations and levels, each for a chunk or for half a chunk.
fn shapes(layout: ScaleLayout) -> [(u8, u16); 8] {
    let (activations, levels) =
        if layout == ScaleLayout::HalfGroups { ((16, 16), (4, 64)) } else { ((16, 32), (8, 64)) };
    let products = (16, 64);
    [products, products, products, products, activations, levels, activations, levels]
}

/// Unpacks the signed levels of a panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(matrix: &CodeMatrix, panel: usize, levels: &mut [u8]) {
    let (panel, layout) = (matrix.panel(panel), matrix.code_layout);
    let zero_point = int8_dot::zero_point::<Sixteen>(matrix) as i8;
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: `levels` has one entry per chunk of the panel.
            unsafe { unpack_as::<$codes>(panel, layout, zero_point, levels) }
        };
    }
    for_each_layout!(matrix, run)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_as<const CODES: u8>(panel: Panel, layout: CodeLayout, zero_point: i8, levels: &mut [u8]) {
    // SAFETY: this function has AVX-512's features.
    let simd = unsafe { Sixteen::new() };
    let table = level_table(simd, layout);
    let zero_point = _mm512_set1_epi8(zero_point);
    for (chunk, levels) in levels.as_chunks_mut::<CHUNK_LEVEL_BYTES>().0.iter_mut().enumerate() {
        let (levels, _) = levels.as_chunks_mut::<64>();
        for v in 0..4 {
            // SAFETY: the caller guarantees the chunks; a vector has 64 bytes.
            unsafe {
                let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Sixteen, CODES>());
                let (low, upper) = quads::<Sixteen, CODES, false>(simd, codes, v, table);
                _mm512_storeu_si512(levels[v].as_mut_ptr().cast(), _mm512_sub_epi8(low, zero_point));
                _mm512_storeu_si512(levels[v + 4].as_mut_ptr().cast(), _mm512_sub_epi8(upper, zero_point));
            }
        }
    }
}

/// Receives sums. Arguments: the group, the row of activations inside the group, and the sums.
type ReceiveSums<'a> = &'a mut dyn FnMut(usize, usize, &[f32; ROWS]);

/// Computes the sums of a panel's rows with some groups of activations. `buffers` is scratch memory for products.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply(
    matrix: &CodeMatrix,
    panel: usize,
    levels: &[u8],
    tiles: &[PackedChunk<GROUP>],
    buffers: &mut [[Products; 2]; 2],
    receive_sums: ReceiveSums,
) {
    let panel = matrix.panel(panel);
    let levels = levels.as_chunks::<CHUNK_LEVEL_BYTES>().0;
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: the panel, its levels and each group of activations have the same number of chunks.
            unsafe { sums::<$scales>(panel, levels, tiles, buffers, receive_sums) }
        };
    }
    for_each_layout!(matrix, run)
}

/// Computes `$sum ← activations at $a · levels at $b` for one or two sums; `$x` and `$w` are the tiles of the operands.
/// The sums stay in their tiles until [`store_products`], because no other code uses tiles.
macro_rules! multiply_tiles {
    ($tile:expr, $levels:expr, $(($sum:literal, $x:literal, $w:literal, $a:literal, $b:literal)),*) => {
        asm!(
            $(concat!("tilezero tmm", $sum),
            concat!("tileloadd tmm", $x, ", [{a} + {a_stride}*1 + ", $a, "]"),
            concat!("tileloadd tmm", $w, ", [{b} + {b_stride}*1 + ", $b, "]"),
            concat!("tdpbssd tmm", $sum, ", tmm", $x, ", tmm", $w),)*
            a = in(reg) &raw const *$tile, b = in(reg) &raw const *$levels,
            a_stride = in(reg) CHUNK, b_stride = in(reg) 4 * ROWS,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        )
    };
}

/// Multiplies one chunk, the two halves of a chunk if they have their own scales, or two chunks.
///
/// # Safety
/// The processor has AMX, tiles are configured by `shapes`, and there are as many chunks of levels as of activations.
#[inline(always)]
unsafe fn multiply_chunks<const SCALES: u8>(
    tiles: &[PackedChunk<GROUP>],
    levels: &[[u8; CHUNK_LEVEL_BYTES]],
) {
    // SAFETY: the caller guarantees AMX; all offsets stay inside the matched chunks.
    unsafe {
        match (tiles, levels) {
            ([tile], [levels]) if SCALES == HALF_GROUPS => {
                multiply_tiles!(tile, levels, (0, 4, 5, 0, 0), (1, 6, 7, 16, 256));
            }
            ([tile, _], [levels, _]) => multiply_tiles!(tile, levels, (0, 4, 5, 0, 0), (1, 6, 7, 768, 512)),
            ([tile], [levels]) => multiply_tiles!(tile, levels, (0, 4, 5, 0, 0)),
            _ => {}
        }
    }
}

/// Stores the products of [`multiply_chunks`].
///
/// # Safety
/// As for [`multiply_chunks`].
#[inline(always)]
unsafe fn store_products(out: &mut [Products; 2]) {
    // SAFETY: `out` has room for two tiles of sixteen rows of 64 bytes.
    unsafe {
        asm!(
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 1024], tmm1",
            c = in(reg) &raw mut *out, stride = in(reg) 4 * ROWS,
            options(nostack),
        );
    }
}

/// Computes the sums of a panel with groups of activations. The loop is software-pipelined across chunks and groups:
/// the next chunks are multiplied while the products of the current ones are summed. The store comes last, because a
/// store waits for its tile, and the following instructions wait for the store.
///
/// # Safety
/// The processor has AMX, tiles are configured by `shapes`, and the panel, its levels and each group have the same
/// number of chunks.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sums<const SCALES: u8>(
    panel: Panel,
    levels: &[[u8; CHUNK_LEVEL_BYTES]],
    tiles: &[PackedChunk<GROUP>],
    buffers: &mut [[Products; 2]; 2],
    receive_sums: ReceiveSums,
) {
    type V = Sixteen;
    // SAFETY: this function has AVX-512's features.
    let simd = unsafe { V::new() };
    let max_chunks = if SCALES == HALF_GROUPS { 1 } else { 2 };
    // Returns the number of chunks that are multiplied together, from `chunk` on.
    let chunk_count = |chunk: usize| max_chunks.min(levels.len() - chunk);
    let multiply = |group: usize, chunk: usize| {
        let (count, first) = (chunk_count(chunk), group * levels.len() + chunk);
        // SAFETY: the caller guarantees AMX and the chunks.
        unsafe { multiply_chunks::<SCALES>(&tiles[first..first + count], &levels[chunk..chunk + count]) };
    };
    let [mut current_products, mut next_products] = buffers.each_mut();
    multiply(0, 0);
    // SAFETY: the caller guarantees AMX and the chunks.
    unsafe { store_products(current_products) };
    let groups = tiles.len() / levels.len();
    for group in 0..groups {
        let scales = Scales::<SCALES>(panel);
        let tiles_of_group = &tiles[group * levels.len()..][..levels.len()];
        let (mut totals, mut block_sums) = ([simd.splat_float(0.0); GROUP], [simd.splat_float(0.0); GROUP]);
        let mut chunk = 0;
        while chunk < levels.len() {
            let current = chunk..chunk + chunk_count(chunk);
            let next = if current.end < levels.len() { (group, current.end) } else { (group + 1, 0) };
            if next.0 < groups {
                multiply(next.0, next.1);
            }
            for (chunk, products) in current.clone().zip(current_products.chunks(2 / max_chunks)) {
                // SAFETY: the caller guarantees the chunks.
                let factors = unsafe { scales.load(simd, chunk) };
                add::<SCALES>(simd, &mut block_sums, products, &tiles_of_group[chunk], &factors);
            }
            if const { has_shared_scale(SCALES) } && current.end.is_multiple_of(SUPERBLOCK_CHUNKS) {
                let scaled_sum = |chunk: usize, t: usize| tiles_of_group[chunk].scaled_sums[t];
                let block = current.end / SUPERBLOCK_CHUNKS - 1;
                // SAFETY: the caller guarantees the chunks.
                unsafe {
                    scales.finish_superblock::<V, GROUP>(
                        simd,
                        block,
                        &mut block_sums,
                        &mut totals,
                        scaled_sum,
                    )
                };
            }
            if next.0 < groups {
                // SAFETY: the caller guarantees AMX and the chunks.
                unsafe { store_products(next_products) };
            }
            std::mem::swap(&mut current_products, &mut next_products);
            chunk = current.end;
        }
        let totals = if const { has_shared_scale(SCALES) } { totals } else { block_sums };
        for (t, total) in totals.into_iter().enumerate() {
            receive_sums(group, t, &simd.to_array(total));
        }
    }
}

/// Adds the products of a chunk to the totals. For half scales, `products` has one entry per half.
#[inline(always)]
fn add<const SCALES: u8>(
    simd: Sixteen,
    totals: &mut [__m512; GROUP],
    products: &[Products],
    tile: &PackedChunk<GROUP>,
    factors: &Factors<Sixteen>,
) {
    for (t, total) in totals.iter_mut().enumerate() {
        // SAFETY: the row has sixteen integers.
        let half_products =
            |half: usize| unsafe { simd.to_floats(simd.load(products[half].0[t].as_ptr().cast())) };
        let sums = if SCALES == HALF_GROUPS {
            [half_products(0), half_products(1)]
        } else {
            [half_products(0), simd.splat_float(0.0)]
        };
        *total = factors.add::<SCALES>(simd, *total, sums, [tile.scales[t], tile.scaled_sums[t]]);
    }
}
