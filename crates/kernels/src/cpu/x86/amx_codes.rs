//! Panels on AMX: `tdpbssd` multiplies sixteen rows of activations with a chunk of sixteen rows of the matrix at once.
//!
//! ```text
//! for each panel: levels ← its codes, signed bytes, eight quads of each chunk one after the other
//! for each group of sixteen rows of activations, for each chunk:
//!     products (16 × 16) ← tile of activations · tile of levels
//!     for each row t of activations: sums[t] += d · (products[t] · scales · scale of t)
//! ```
//!
//! Products of a chunk and a group's integer scales stay below 2²⁴, where `f32` holds every integer: numbers give the bits
//! that integers give elsewhere. Few rows of activations are left to AVX-512.

use super::amx_tiles::Configured;
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

/// Rows of activations of a tile.
const GROUP: usize = 16;
/// Rows of activations that are worth a tile.
const ENOUGH: usize = 12;
/// Bytes of a chunk of a panel's levels.
const LEVELS: usize = CHUNK * ROWS;
/// Groups of activations that stay near while panels of a task pass.
const GROUPS_NEAR: usize = 4;

/// Products of sixteen rows of activations with sixteen of the matrix.
#[repr(C, align(64))]
struct Products([[i32; ROWS]; GROUP]);

const EMPTY: Products = Products([[0; ROWS]; GROUP]);

/// The products with integer codes of AMX: many rows in tiles, the rest as AVX-512 does.
pub(super) const CODES: CodeKernels = CodeKernels {
    many_rows: &[
        ManyRows {
            group_rows: GROUP,
            row_count: |_, rows| if rows % GROUP < ENOUGH { rows / GROUP * GROUP } else { rows },
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
    // SAFETY: this kernel is in the row of AMX alone.
    let _configured = unsafe { Configured::new(&shapes(matrix.scale_layout)) };
    let mut buffers = [[EMPTY; 2], [EMPTY; 2]];
    scratch::with(panels.len() * chunks * LEVELS / size_of::<f32>(), |levels| {
        let levels: &mut [u8] = bytemuck::cast_slice_mut(levels);
        for (panel, levels) in panels.clone().zip(levels.chunks_exact_mut(chunks * LEVELS)) {
            unpack(matrix, panel, levels);
        }
        for (near, packed) in packed.chunks(GROUPS_NEAR * chunks).enumerate() {
            for (panel, levels) in panels.clone().zip(levels.chunks_exact(chunks * LEVELS)) {
                let mut put = |group: usize, t: usize, sums: &[f32; ROWS]| {
                    let row = rows.start + (near * GROUPS_NEAR + group) * GROUP + t;
                    if row < rows.end {
                        // SAFETY: each task has its own panels.
                        unsafe { matrix.put(y, row, panel, sums) };
                    }
                };
                multiply(matrix, panel, levels, packed, &mut buffers, &mut put);
            }
        }
    });
}

/// Rows of tiles and bytes a row: two of products (of four that could be), then activations and levels of a chunk, or of half
/// a chunk, twice.
fn shapes(layout: ScaleLayout) -> [(u8, u16); 8] {
    let (activations, levels) =
        if layout == ScaleLayout::HalfGroups { ((16, 16), (4, 64)) } else { ((16, 32), (8, 64)) };
    let products = (16, 64);
    [products, products, products, products, activations, levels, activations, levels]
}

/// Signed levels of a panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(matrix: &CodeMatrix, panel: usize, levels: &mut [u8]) {
    let (panel, layout) = (matrix.panel(panel), matrix.code_layout);
    let zero_point = int8_dot::zero_point::<Sixteen>(matrix) as i8;
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: a panel has as many chunks of codes as `levels` has of levels.
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
    for (chunk, levels) in levels.as_chunks_mut::<LEVELS>().0.iter_mut().enumerate() {
        let (levels, _) = levels.as_chunks_mut::<64>();
        for v in 0..4 {
            // SAFETY: the caller promises so many chunks; a vector is 64 bytes.
            unsafe {
                let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Sixteen, CODES>());
                let (low, upper) = quads::<Sixteen, CODES, false>(simd, codes, v, table);
                _mm512_storeu_si512(levels[v].as_mut_ptr().cast(), _mm512_sub_epi8(low, zero_point));
                _mm512_storeu_si512(levels[v + 4].as_mut_ptr().cast(), _mm512_sub_epi8(upper, zero_point));
            }
        }
    }
}

/// What takes sums: of which group, of which of its rows of activations.
type Put<'a> = &'a mut dyn FnMut(usize, usize, &[f32; ROWS]);

/// Sums of a panel's rows with some groups of activations; `buffers` is for products on the way.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply(
    matrix: &CodeMatrix,
    panel: usize,
    levels: &[u8],
    tiles: &[PackedChunk<GROUP>],
    buffers: &mut [[Products; 2]; 2],
    put: Put,
) {
    let panel = matrix.panel(panel);
    let levels = levels.as_chunks::<LEVELS>().0;
    macro_rules! run {
        ($codes:ident, $scales:ident) => {
            // SAFETY: a panel's parts, its levels and each group of tiles have as many chunks.
            unsafe { sums::<$scales>(panel, levels, tiles, buffers, put) }
        };
    }
    for_each_layout!(matrix, run)
}

/// `$sum ← activations at $a · levels at $b`, through two tiles, for some sums side by side. They stay in their tiles, which
/// nothing but these blocks uses, until [`store`].
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

/// Products of one chunk, of its halves where those have scales of their own, or of two chunks.
///
/// # Safety
/// The processor has AMX, tiles are configured as `shapes` says, and there are as many chunks of levels as of activations.
#[inline(always)]
unsafe fn multiply_chunks<const SCALES: u8>(tiles: &[PackedChunk<GROUP>], levels: &[[u8; LEVELS]]) {
    // SAFETY: the caller's promise; displacements stay inside the chunks that were counted.
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

/// What [`multiply_chunks`] made.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn store(out: &mut [Products; 2]) {
    // SAFETY: two tiles of sixteen rows of 64 bytes.
    unsafe {
        asm!(
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 1024], tmm1",
            c = in(reg) &raw mut *out, stride = in(reg) 4 * ROWS,
            options(nostack),
        );
    }
}

/// Chunks are multiplied while the products of those before are summed, from one group of activations into the next, and
/// stored after that: a store waits for its tile, and all that follows for the store (73 cycles a chunk where it came first,
/// 30 so).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sums<const SCALES: u8>(
    panel: Panel,
    levels: &[[u8; LEVELS]],
    tiles: &[PackedChunk<GROUP>],
    buffers: &mut [[Products; 2]; 2],
    put: Put,
) {
    type V = Sixteen;
    // SAFETY: this function has AVX-512's features.
    let simd = unsafe { V::new() };
    let at_once = if SCALES == HALF_GROUPS { 1 } else { 2 };
    // Chunks that are multiplied together from this one on.
    let together = |chunk: usize| at_once.min(levels.len() - chunk);
    let multiply = |group: usize, chunk: usize| {
        let (count, first) = (together(chunk), group * levels.len() + chunk);
        // SAFETY: the caller's promise.
        unsafe { multiply_chunks::<SCALES>(&tiles[first..first + count], &levels[chunk..chunk + count]) };
    };
    let [mut full, mut free] = buffers.each_mut();
    multiply(0, 0);
    // SAFETY: the caller's promise.
    unsafe { store(full) };
    let groups = tiles.len() / levels.len();
    for group in 0..groups {
        let scales = Scales::<SCALES>(panel);
        let tiles_of_group = &tiles[group * levels.len()..][..levels.len()];
        let (mut totals, mut run_sums) = ([simd.splat_float(0.0); GROUP], [simd.splat_float(0.0); GROUP]);
        let mut chunk = 0;
        while chunk < levels.len() {
            let some = chunk..chunk + together(chunk);
            let next = if some.end < levels.len() { (group, some.end) } else { (group + 1, 0) };
            if next.0 < groups {
                multiply(next.0, next.1);
            }
            for (chunk, products) in some.clone().zip(full.chunks(2 / at_once)) {
                // SAFETY: the caller promises so many chunks in every part.
                let factors = unsafe { scales.of(simd, chunk) };
                add::<SCALES>(simd, &mut run_sums, products, &tiles_of_group[chunk], &factors);
            }
            if const { shares(SCALES) } && some.end.is_multiple_of(SHARING) {
                let scaled = |chunk: usize, t: usize| tiles_of_group[chunk].scaled[t];
                let block = some.end / SHARING - 1;
                // SAFETY: the caller promises so many chunks in every part.
                unsafe { scales.close::<V, GROUP>(simd, block, &mut run_sums, &mut totals, scaled) };
            }
            if next.0 < groups {
                // SAFETY: the caller's promise.
                unsafe { store(free) };
            }
            std::mem::swap(&mut full, &mut free);
            chunk = some.end;
        }
        let totals = if const { shares(SCALES) } { totals } else { run_sums };
        for (t, total) in totals.into_iter().enumerate() {
            put(group, t, &simd.to_array(total));
        }
    }
}

/// Adds a chunk's products, those of its halves one after the other.
#[inline(always)]
fn add<const SCALES: u8>(
    simd: Sixteen,
    totals: &mut [__m512; GROUP],
    products: &[Products],
    tile: &PackedChunk<GROUP>,
    factors: &Factors<Sixteen>,
) {
    for (t, total) in totals.iter_mut().enumerate() {
        // SAFETY: sixteen integers.
        let of = |half: usize| unsafe { simd.to_floats(simd.load(products[half].0[t].as_ptr().cast())) };
        let sums = if SCALES == HALF_GROUPS { [of(0), of(1)] } else { [of(0), simd.splat_float(0.0)] };
        *total = factors.add::<SCALES>(simd, *total, sums, [tile.scales[t], tile.scaled[t]]);
    }
}
