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

use super::chunk::{Factors, Scales, code_bytes, quads, table};
use super::kinds::*;
use super::outliers::{Outliers, OutliersOfRows};
use super::quads::offset;
use super::together::{Together, lay};
use super::vector::Vector;
use super::vnni::Sixteen;
use super::{Activations, CHUNK, Coding, Panel, Panels, ROWS, SHARING, Scheme};
use crate::cpu::tiles::Configured;
use crate::cpu::tokens::Amx;
use crate::scratch;
use crate::shared::Shared;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of activations of a tile.
const TOGETHER: usize = 16;
/// Rows of activations that are worth a tile.
const ENOUGH: usize = 12;
/// Bytes of a chunk of a panel's levels.
const LEVELS: usize = CHUNK * ROWS;
/// Groups of activations that stay near while panels of a task pass.
const GROUPS_NEAR: usize = 4;

/// Products of sixteen rows of activations with sixteen of the matrix.
#[repr(C, align(64))]
struct Products([[i32; ROWS]; TOGETHER]);

const EMPTY: Products = Products([[0; ROWS]; TOGETHER]);

/// `y` = x · the matrix for the first rows of `x`, as many as are worth it; says how many.
pub(crate) fn product(
    token: Amx,
    matrix: &Panels,
    x: &Activations,
    (y, outliers): (&Shared<f32>, Option<&Outliers>),
) -> usize {
    let rest = x.rows() % TOGETHER;
    let done = if rest < ENOUGH { x.rows() - rest } else { x.rows() };
    let (groups, chunks) = (done.div_ceil(TOGETHER), matrix.chunks());
    if groups == 0 {
        return 0;
    }
    let outliers = outliers.map(|all| OutliersOfRows::new(matrix, all, 0..done));
    lay::<TOGETHER, false, _>(matrix, x, 0..done, 0, |tiles| {
        let tasks = matrix.tasks();
        matrix.backend.pool().run(tasks.len() - 1, &|task| {
            let of_task = tasks[task]..tasks[task + 1];
            let _configured = Configured::new(token, &shapes(matrix.scheme));
            let mut buffers = [[EMPTY; 2], [EMPTY; 2]];
            scratch::with(of_task.len() * chunks * LEVELS / size_of::<f32>(), |levels| {
                let levels: &mut [u8] = bytemuck::cast_slice_mut(levels);
                for (panel, levels) in of_task.clone().zip(levels.chunks_exact_mut(chunks * LEVELS)) {
                    // SAFETY: the token proves the features.
                    unsafe { unpack(matrix, panel, levels) };
                }
                for near in (0..groups).step_by(GROUPS_NEAR) {
                    let near = near..groups.min(near + GROUPS_NEAR);
                    let tiles = &tiles[near.start * chunks..near.end * chunks];
                    for (panel, levels) in of_task.clone().zip(levels.chunks_exact(chunks * LEVELS)) {
                        let mut put = |group: usize, t: usize, sums: &[f32; ROWS]| {
                            let row = (near.start + group) * TOGETHER + t;
                            if row < done {
                                // SAFETY: each task has its own panels.
                                unsafe { matrix.put(y, row, panel, sums) };
                            }
                        };
                        // SAFETY: the token proves the features, and tiles are configured.
                        unsafe { multiply(matrix, panel, levels, tiles, &mut buffers, &mut put) };
                    }
                }
            });
            if let Some(outliers) = &outliers {
                matrix.add_outliers(of_task, outliers, y);
            }
        });
    });
    done
}

/// Rows of tiles and bytes a row: two of products (of four that could be), then activations and levels of a chunk, or of half
/// a chunk, twice.
fn shapes(scheme: Scheme) -> [(u8, u16); 8] {
    let (activations, levels) =
        if scheme == Scheme::HalfGroups { ((16, 16), (4, 64)) } else { ((16, 32), (8, 64)) };
    let products = (16, 64);
    [products, products, products, products, activations, levels, activations, levels]
}

/// Signed levels of a panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(matrix: &Panels, panel: usize, levels: &mut [u8]) {
    let (panel, coding) = (matrix.panel(panel), matrix.coding);
    let less = offset::<Sixteen>(matrix) as i8;
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel has as many chunks of codes as `levels` has of levels.
            unsafe { unpack_as::<$coding>(panel, coding, less, levels) }
        };
    }
    for_each_kind!(matrix, run)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_as<const CODING: u8>(panel: Panel, coding: Coding, less: i8, levels: &mut [u8]) {
    let table = table::<Sixteen>(coding);
    let less = _mm512_set1_epi8(less);
    for (chunk, levels) in levels.as_chunks_mut::<LEVELS>().0.iter_mut().enumerate() {
        let (levels, _) = levels.as_chunks_mut::<64>();
        for v in 0..4 {
            // SAFETY: the caller promises so many chunks; a vector is 64 bytes.
            unsafe {
                let codes = panel.codes.as_ptr().add(chunk * code_bytes::<Sixteen, CODING>());
                let (low, upper) = quads::<Sixteen, CODING, false>(codes, v, table);
                _mm512_storeu_si512(levels[v].as_mut_ptr().cast(), _mm512_sub_epi8(low, less));
                _mm512_storeu_si512(levels[v + 4].as_mut_ptr().cast(), _mm512_sub_epi8(upper, less));
            }
        }
    }
}

/// What takes sums: of which group, of which of its rows of activations.
type Put<'a> = &'a mut dyn FnMut(usize, usize, &[f32; ROWS]);

/// Sums of a panel's rows with some groups of activations; `buffers` is for products on the way.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply(
    matrix: &Panels,
    panel: usize,
    levels: &[u8],
    tiles: &[Together<TOGETHER>],
    buffers: &mut [[Products; 2]; 2],
    put: Put,
) {
    let panel = matrix.panel(panel);
    let levels = levels.as_chunks::<LEVELS>().0;
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel's parts, its levels and each group of tiles have as many chunks.
            unsafe { sums::<$scheme>(panel, levels, tiles, buffers, put) }
        };
    }
    for_each_kind!(matrix, run)
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
unsafe fn multiply_chunks<const SCHEME: u8>(tiles: &[Together<TOGETHER>], levels: &[[u8; LEVELS]]) {
    // SAFETY: the caller's; displacements stay inside the chunks that were counted.
    unsafe {
        match (tiles, levels) {
            ([tile], [levels]) if SCHEME == HALF_GROUPS => {
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
unsafe fn sums<const SCHEME: u8>(
    panel: Panel,
    levels: &[[u8; LEVELS]],
    tiles: &[Together<TOGETHER>],
    buffers: &mut [[Products; 2]; 2],
    put: Put,
) {
    type V = Sixteen;
    let at_once = if SCHEME == HALF_GROUPS { 1 } else { 2 };
    // Chunks that are multiplied together from this one on.
    let together = |chunk: usize| at_once.min(levels.len() - chunk);
    let multiply = |group: usize, chunk: usize| {
        let (count, first) = (together(chunk), group * levels.len() + chunk);
        // SAFETY: the caller's.
        unsafe { multiply_chunks::<SCHEME>(&tiles[first..first + count], &levels[chunk..chunk + count]) };
    };
    let [mut full, mut free] = buffers.each_mut();
    multiply(0, 0);
    // SAFETY: the caller's.
    unsafe { store(full) };
    let groups = tiles.len() / levels.len();
    for group in 0..groups {
        let scales = Scales::<SCHEME>(panel);
        let tiles_of_group = &tiles[group * levels.len()..][..levels.len()];
        let (mut totals, mut run_sums) = ([V::number(0.0); TOGETHER], [V::number(0.0); TOGETHER]);
        let mut chunk = 0;
        while chunk < levels.len() {
            let some = chunk..chunk + together(chunk);
            let next = if some.end < levels.len() { (group, some.end) } else { (group + 1, 0) };
            if next.0 < groups {
                multiply(next.0, next.1);
            }
            for (chunk, products) in some.clone().zip(full.chunks(2 / at_once)) {
                // SAFETY: the caller promises so many chunks in every part.
                let factors = unsafe { scales.of::<V>(chunk) };
                add::<SCHEME>(&mut run_sums, products, &tiles_of_group[chunk], &factors);
            }
            if const { shares(SCHEME) } && some.end.is_multiple_of(SHARING) {
                let scaled = |chunk: usize, t: usize| tiles_of_group[chunk].scaled[t];
                let block = some.end / SHARING - 1;
                // SAFETY: the caller promises so many chunks in every part.
                unsafe { scales.close::<V, TOGETHER>(block, &mut run_sums, &mut totals, scaled) };
            }
            if next.0 < groups {
                // SAFETY: the caller's.
                unsafe { store(free) };
            }
            std::mem::swap(&mut full, &mut free);
            chunk = some.end;
        }
        let totals = if const { shares(SCHEME) } { totals } else { run_sums };
        for (t, total) in totals.into_iter().enumerate() {
            put(group, t, &V::store(total));
        }
    }
}

/// Adds a chunk's products, those of its halves one after the other.
#[inline(always)]
fn add<const SCHEME: u8>(
    totals: &mut [__m512; TOGETHER],
    products: &[Products],
    tile: &Together<TOGETHER>,
    factors: &Factors<Sixteen>,
) {
    type V = Sixteen;
    for (t, total) in totals.iter_mut().enumerate() {
        // SAFETY: sixteen integers.
        let of = |half: usize| unsafe { V::numbers(V::load(products[half].0[t].as_ptr().cast())) };
        let sums = if SCHEME == HALF_GROUPS { [of(0), of(1)] } else { [of(0), V::number(0.0)] };
        *total = factors.add::<SCHEME>(*total, sums, [tile.scales[t], tile.scaled[t]]);
    }
}
