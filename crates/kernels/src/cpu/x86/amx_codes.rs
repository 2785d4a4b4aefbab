//! Multiplies integer codes with AMX. One `tdpbssd` multiplies sixteen rows of activations with one chunk of a panel. A
//! panel is sixteen rows of the matrix, stored side by side. A chunk is 32 columns of a panel. A quad is four
//! consecutive columns of all rows of a panel.
//!
//! ```text
//! for each panel: levels ← the codes of the panel as signed bytes; a chunk is eight consecutive quads
//! for each group of sixteen rows of activations, for each chunk:
//!     products (16 × 16 integers) ← tile of activations · tile of levels
//!     for each row t of activations: sums[t] += d · (products[t] · scales · scale of row t)
//! ```
//!
//! Here `scales` are the integer scales of the chunk, and `d` is the float scale of the chunk or of its superblock.
//! Both have one entry per row of the panel. The scale of row t belongs to the activations of row t in this chunk.
//!
//! The product of the sum of a chunk and an integer scale stays below 2²⁴. `f32` represents every integer up to 2²⁴
//! exactly. So this kernel can multiply floats and returns the same bits as kernels that multiply integers.
//!
//! The AVX-512 kernel multiplies the rows of activations that are too few for a tile.

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

/// Number of rows of activations in a tile.
const GROUP: usize = 16;
/// Minimum number of rows of activations for which a tile is faster than AVX-512.
const MIN_TILE_ROWS: usize = 12;
/// Size of the levels of a chunk, in bytes.
const CHUNK_LEVEL_BYTES: usize = CHUNK * ROWS;
/// Number of groups of activations that stay in the cache while a task loops over its panels.
const CACHED_GROUPS: usize = 4;

/// Products of sixteen rows of activations (first index) with sixteen rows of the matrix (second index).
#[repr(C, align(64))]
struct Products([[i32; ROWS]; GROUP]);

/// Zeros: the initial value of a buffer.
const EMPTY: Products = Products([[0; ROWS]; GROUP]);

/// The AMX kernels for integer codes. AMX tiles multiply groups of sixteen rows of activations. AVX-512 multiplies the
/// remaining rows.
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

/// Multiplies the panels `panels` with the packed rows of activations; see [`ManyRows::multiply`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_panels(
    matrix: &CodeMatrix,
    panels: Range<usize>,
    packed: &[f32],
    rows: Range<usize>,
    y: &Shared<f32>,
) {
    let (chunks, packed): (usize, &[PackedChunk<GROUP>]) = (matrix.chunks(), bytemuck::cast_slice(packed));
    // SAFETY: only the AMX entry in the table of instruction sets has this kernel, so the processor has AMX.
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
                        // SAFETY: each task has its own panels, so no other thread accesses the results of these
                        // panels.
                        unsafe { matrix.write_sums(y, row, panel, sums) };
                    }
                };
                multiply(matrix, panel, levels, packed, &mut buffers, &mut receive_sums);
            }
        }
    });
}

/// Returns the shapes of the eight tiles, as (rows, bytes per row). Tiles 0 to 3 have the shape of the products; only
/// tiles 0 and 1 are used. Tiles 4 and 6 hold activations; tiles 5 and 7 hold levels. Each of these four tiles holds
/// one chunk. If the halves of a chunk have their own scales, it holds half a chunk.
fn shapes(layout: ScaleLayout) -> [(u8, u16); 8] {
    let (activations, levels) =
        if layout == ScaleLayout::HalfGroups { ((16, 16), (4, 64)) } else { ((16, 32), (8, 64)) };
    let products = (16, 64);
    [products, products, products, products, activations, levels, activations, levels]
}

/// Writes the signed levels of panel `panel` to `levels`, chunk by chunk.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(matrix: &CodeMatrix, panel: usize, levels: &mut [u8]) {
    let (panel, layout) = (matrix.panel(panel), matrix.code_layout);
    let zero_point = int8_dot::zero_point::<Sixteen>(matrix) as i8;
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: `levels` has `CHUNK_LEVEL_BYTES` bytes per chunk of the panel.
            unsafe { unpack_as::<$codes>(panel, layout, zero_point, levels) }
        };
    }
    for_each_layout!(matrix, run)
}

/// Writes the signed levels of a panel to `levels`. The codes of the panel have the layout `CODES`.
///
/// # Safety
/// The panel has at least `levels.len() / CHUNK_LEVEL_BYTES` chunks.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_as<const CODES: u8>(panel: Panel, layout: CodeLayout, zero_point: i8, levels: &mut [u8]) {
    // SAFETY: this function has the target features AVX-512 F, BW, VL and VNNI.
    let simd = unsafe { Sixteen::new() };
    let table = level_table(simd, layout);
    let zero_point = _mm512_set1_epi8(zero_point);
    for (chunk, levels) in levels.as_chunks_mut::<CHUNK_LEVEL_BYTES>().0.iter_mut().enumerate() {
        let (levels, _) = levels.as_chunks_mut::<64>();
        for v in 0..4 {
            // SAFETY: the caller guarantees that the panel has this chunk. Each entry of `levels` has 64 bytes, the
            // size of a vector.
            unsafe {
                let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Sixteen, CODES>());
                let (low, upper) = quads::<Sixteen, CODES, false>(simd, codes, v, table);
                _mm512_storeu_si512(levels[v].as_mut_ptr().cast(), _mm512_sub_epi8(low, zero_point));
                _mm512_storeu_si512(levels[v + 4].as_mut_ptr().cast(), _mm512_sub_epi8(upper, zero_point));
            }
        }
    }
}

/// A function that receives the sums of one row of activations with one panel. Arguments: the index of the group of
/// activations, the index of the row inside the group, and the sums, one per row of the panel.
type ReceiveSums<'a> = &'a mut dyn FnMut(usize, usize, &[f32; ROWS]);

/// Multiplies panel `panel` with the groups of activations in `tiles`, and passes the sums to `receive_sums`. `levels`
/// has the levels of this panel, as [`unpack`] writes them. `buffers` is scratch memory for products.
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
            // SAFETY: the panel, its levels and each group of activations have the same number of chunks. The only
            // caller, `multiply_panels`, has configured the tiles.
            unsafe { sums::<$scales>(panel, levels, tiles, buffers, receive_sums) }
        };
    }
    for_each_layout!(matrix, run)
}

/// Computes tile `$sum` ← (activations at offset `$a` of `$tile`) · (levels at offset `$b` of `$levels`), for one or
/// two sums. Offsets are in bytes. `$x` and `$w` are the numbers of the tiles that hold the two operands. The sums stay
/// in their tiles until [`store_products`] stores them, because no other code uses tiles.
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

/// Multiplies one chunk or two chunks. If the halves of a chunk have their own scales, it multiplies the two halves of
/// one chunk. The products are in tiles 0 and 1.
///
/// # Safety
/// The processor has AMX, and the tiles have the shapes that [`shapes`] returns. `tiles` and `levels` have the same
/// number of chunks.
#[inline(always)]
unsafe fn multiply_chunks<const SCALES: u8>(
    tiles: &[PackedChunk<GROUP>],
    levels: &[[u8; CHUNK_LEVEL_BYTES]],
) {
    // SAFETY: the caller guarantees that the processor has AMX and that the tiles are configured. All offsets are
    // inside the matched chunks.
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

/// Stores the products that [`multiply_chunks`] computed in tiles 0 and 1.
///
/// # Safety
/// The processor has AMX, and the tiles have the shapes that [`shapes`] returns.
#[inline(always)]
unsafe fn store_products(out: &mut [Products; 2]) {
    // SAFETY: the caller guarantees that the processor has AMX and that the tiles are configured. `out` has room for
    // two tiles of sixteen rows with 64 bytes per row.
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
/// AMX multiplies the next chunks while AVX-512 sums the products of the current chunks. The store of the next products
/// is the last step of an iteration. The store waits for its tile, and all later instructions wait for the store.
///
/// # Safety
/// The processor has AMX, and the tiles have the shapes that [`shapes`] returns. The panel, its levels and each group
/// of activations have the same number of chunks.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sums<const SCALES: u8>(
    panel: Panel,
    levels: &[[u8; CHUNK_LEVEL_BYTES]],
    tiles: &[PackedChunk<GROUP>],
    buffers: &mut [[Products; 2]; 2],
    receive_sums: ReceiveSums,
) {
    type V = Sixteen;
    // SAFETY: this function has the target features AVX-512 F, BW, VL and VNNI.
    let simd = unsafe { V::new() };
    // The two product tiles hold the products of two chunks, or of the two halves of one chunk.
    let max_chunks = if SCALES == HALF_GROUPS { 1 } else { 2 };
    // Returns the number of chunks that are multiplied together, if `chunk` is the first of these chunks.
    let chunk_count = |chunk: usize| max_chunks.min(levels.len() - chunk);
    let multiply = |group: usize, chunk: usize| {
        let (count, first) = (chunk_count(chunk), group * levels.len() + chunk);
        // SAFETY: the caller guarantees that the processor has AMX, that the tiles are configured, and that the levels
        // and each group have the same number of chunks.
        unsafe { multiply_chunks::<SCALES>(&tiles[first..first + count], &levels[chunk..chunk + count]) };
    };
    let [mut current_products, mut next_products] = buffers.each_mut();
    multiply(0, 0);
    // SAFETY: the caller guarantees that the processor has AMX, that the tiles are configured, and that the levels and
    // each group have the same number of chunks.
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
                // SAFETY: the caller guarantees that the panel has `levels.len()` chunks.
                let factors = unsafe { scales.load(simd, chunk) };
                add::<SCALES>(simd, &mut block_sums, products, &tiles_of_group[chunk], &factors);
            }
            if const { has_shared_scale(SCALES) } && current.end.is_multiple_of(SUPERBLOCK_CHUNKS) {
                let scaled_sum = |chunk: usize, t: usize| tiles_of_group[chunk].scaled_sums[t];
                let block = current.end / SUPERBLOCK_CHUNKS - 1;
                // SAFETY: the caller guarantees that the panel has `levels.len()` chunks.
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
                // SAFETY: the caller guarantees that the processor has AMX, that the tiles are configured, and that the
                // levels and each group have the same number of chunks.
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

/// Adds the products of one chunk, times the scales of the chunk, to the totals. If the halves of the chunk have their
/// own scales, `products` has one entry per half. Otherwise it has one entry.
#[inline(always)]
fn add<const SCALES: u8>(
    simd: Sixteen,
    totals: &mut [__m512; GROUP],
    products: &[Products],
    tile: &PackedChunk<GROUP>,
    factors: &Factors<Sixteen>,
) {
    for (t, total) in totals.iter_mut().enumerate() {
        // SAFETY: a row of the products has sixteen integers, the size of a vector.
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
