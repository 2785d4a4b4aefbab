//! What pages of each format give: products of queries with keys, and sums of values.
//!
//! Invariant: a sum of a row and of one number of sixteen has its own order, whatever else is summed beside it.

use super::lanes::Lanes;
use crate::cpu::prefetch::prefetch;
use crate::kv_format::{BLOCK, LANES, PAGE};

/// Bytes of a line of a cache.
const LINE: usize = 64;

/// A page of a format. Panels and vectors are taken `N` at a time, so that enough sums are under way that none waits for its
/// own last addition.
pub(crate) trait PageFormat {
    /// Floats of a head whose values stand together, in vectors.
    const PARTS: usize;
    /// Bytes of such values.
    const PART_BYTES: usize;
    /// Vectors of values that are summed at once, at most.
    const AT_ONCE: usize;

    /// Products of some rows (all floats of one head) with some panels of keys. The bytes at distance `ahead` are prefetched, line
    /// by line.
    fn scores<L: Lanes, const T: usize, const N: usize>(
        simd: L,
        rows: [&[f32]; T],
        panels: [&[u8]; N],
        ahead: usize,
    ) -> [[L::Vector; T]; N];

    /// `sums` += Σ shares × values, of the `N` vectors from `first` on, over the positions that `shares` has.
    fn weigh<L: Lanes, const T: usize, const N: usize>(
        simd: L,
        shares: [&[f32]; T],
        values: &[u8],
        first: usize,
        ahead: usize,
        sums: &mut [[L::Vector; T]; N],
    );
}

/// `f32`.
pub(crate) struct Floats;
/// `f16`.
pub(crate) struct Halves;
/// `q8_0`.
pub(crate) struct Bytes;
/// `q4_0`.
pub(crate) struct Nibbles;

/// Rows of numbers that are multiplied together. Invariant: each has `count` numbers at least.
#[derive(Clone, Copy)]
struct Together<'a, const T: usize> {
    rows: [&'a [f32]; T],
    count: usize,
}

impl<'a, const T: usize> Together<'a, T> {
    /// Panics unless each has so many numbers.
    #[inline(always)]
    fn new(rows: [&'a [f32]; T], count: usize) -> Self {
        assert!(rows.iter().all(|row| row.len() >= count), "a number for every lane");
        Self { rows, count }
    }

    /// Each row's sums += its number `i` · `lanes`.
    ///
    /// # Safety
    /// There is such a number: a check for each would take as long as the sums.
    #[inline(always)]
    unsafe fn add<L: Lanes, const N: usize>(
        &self,
        simd: L,
        i: usize,
        lanes: [L::Vector; N],
        sums: &mut [[L::Vector; T]; N],
    ) {
        debug_assert!(i < self.count, "a number of each row");
        for (t, row) in self.rows.iter().enumerate() {
            // SAFETY: the caller's, and the invariant.
            let factor = simd.splat(unsafe { *row.get_unchecked(i) });
            for n in 0..N {
                sums[n][t] = simd.multiply_add(factor, lanes[n], sums[n][t]);
            }
        }
    }
}

/// `sums` += Σ each row's numbers × the vectors of sixteen numbers that lie one after the other in each part, `BYTES` a vector.
#[inline(always)]
fn add_all<L: Lanes, const T: usize, const N: usize, const BYTES: usize>(
    simd: L,
    rows: [&[f32]; T],
    parts: [&[u8]; N],
    ahead: usize,
    sums: &mut [[L::Vector; T]; N],
) {
    let parts = parts.map(|part| part.as_chunks::<BYTES>().0);
    let count = parts[0].len();
    let rows = Together::new(rows, count);
    if ahead > 0 {
        add_parts::<L, T, N, BYTES, true>(simd, rows, parts, ahead, sums);
    } else {
        add_parts::<L, T, N, BYTES, false>(simd, rows, parts, ahead, sums);
    }
}

/// The same over parts of as many vectors as the rows have numbers (else it panics); with `PREFETCH` the bytes at distance `ahead`
/// are prefetched vector by vector: all at once they would fill the queue to memory.
#[inline(always)]
fn add_parts<L: Lanes, const T: usize, const N: usize, const BYTES: usize, const PREFETCH: bool>(
    simd: L,
    rows: Together<'_, T>,
    parts: [&[[u8; BYTES]]; N],
    ahead: usize,
    sums: &mut [[L::Vector; T]; N],
) {
    assert!(parts.iter().all(|part| part.len() == rows.count), "parts of one length");
    let mut all = *sums;
    for i in 0..rows.count {
        let mut lanes = [simd.zero(); N];
        for (lane, part) in lanes.iter_mut().zip(&parts) {
            // SAFETY: every part has so many (asserted).
            let bytes = unsafe { part.get_unchecked(i) };
            if PREFETCH {
                prefetch::<true>(bytes.as_ptr().wrapping_add(ahead));
            }
            *lane = float_vector::<L, BYTES>(simd, bytes);
        }
        // SAFETY: below the numbers of each row.
        unsafe { rows.add::<L, N>(simd, i, lanes, &mut all) };
    }
    *sums = all;
}

/// The same over codes of values, of the `N` vectors from `vector` on. Panics unless there are as many as the rows have numbers.
#[inline(always)]
fn add_codes<L: Lanes, const T: usize, const N: usize, const BYTES: usize, const PREFETCH: bool>(
    simd: L,
    rows: Together<'_, T>,
    codes: &[[u8; BYTES]],
    vector: usize,
    ahead: usize,
    sums: &mut [[L::Vector; T]; N],
) {
    assert!(
        codes.len() == rows.count && vector + N <= BLOCK / LANES,
        "codes for every number, of vectors of a block"
    );
    let mut all = *sums;
    for (i, codes) in codes.iter().enumerate() {
        if PREFETCH {
            prefetch::<true>(codes.as_ptr().wrapping_add(ahead));
        }
        let mut lanes = [simd.zero(); N];
        for (n, lane) in lanes.iter_mut().enumerate() {
            let (line, half) = if BYTES == BLOCK { (vector + n, 0) } else { (0, vector + n) };
            *lane = code_vector::<L, BYTES>(simd, &codes.as_chunks().0[line], half);
        }
        // SAFETY: below the numbers of each row.
        unsafe { rows.add::<L, N>(simd, i, lanes, &mut all) };
    }
    *sums = all;
}

/// Prefetches the bytes at this distance from these.
#[inline(always)]
fn prefetch_all(bytes: &[u8], ahead: usize) {
    if ahead > 0 {
        for line in (0..bytes.len()).step_by(LINE) {
            prefetch::<true>(bytes.as_ptr().wrapping_add(ahead + line));
        }
    }
}

/// Sixteen numbers, of four or of two bytes each.
#[inline(always)]
fn float_vector<L: Lanes, const BYTES: usize>(simd: L, bytes: &[u8; BYTES]) -> L::Vector {
    match bytes.first_chunk() {
        Some(floats) => simd.load_f32(floats),
        None => simd.load_f16(bytes.first_chunk().expect("sixteen halves")),
    }
}

macro_rules! page_formats_of_numbers {
    ($format:ty, $bytes:literal) => {
        impl PageFormat for $format {
            const PARTS: usize = 1;
            const PART_BYTES: usize = PAGE * $bytes * LANES;
            const AT_ONCE: usize = 4;

            #[inline(always)]
            fn scores<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                rows: [&[f32]; T],
                panels: [&[u8]; N],
                ahead: usize,
            ) -> [[L::Vector; T]; N] {
                let mut sums = [[simd.zero(); T]; N];
                add_all::<L, T, N, { $bytes * LANES }>(simd, rows, panels, ahead, &mut sums);
                sums
            }

            #[inline(always)]
            fn weigh<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                shares: [&[f32]; T],
                values: &[u8],
                first: usize,
                ahead: usize,
                sums: &mut [[L::Vector; T]; N],
            ) {
                let bytes = shares[0].len() * $bytes * LANES;
                let parts = std::array::from_fn(|n| &values[(first + n) * Self::PART_BYTES..][..bytes]);
                add_all::<L, T, N, { $bytes * LANES }>(simd, shares, parts, ahead, sums);
            }
        }
    };
}

page_formats_of_numbers!(Floats, 4);
page_formats_of_numbers!(Halves, 2);

macro_rules! page_formats_of_codes {
    ($format:ty, $bytes:expr) => {
        impl PageFormat for $format {
            const PARTS: usize = BLOCK / LANES;
            const PART_BYTES: usize = PAGE * (2 + $bytes);
            // One part's: each part has scales of its own.
            const AT_ONCE: usize = Self::PARTS;

            #[inline(always)]
            fn scores<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                rows: [&[f32]; T],
                panels: [&[u8]; N],
                ahead: usize,
            ) -> [[L::Vector; T]; N] {
                let panels = panels.map(|panel| panel.as_chunks::<{ (2 + $bytes) * LANES }>().0);
                let count = panels[0].len();
                assert!(panels.iter().all(|panel| panel.len() == count), "panels of one length");
                let mut sums = [[simd.zero(); T]; N];
                for b in 0..count {
                    let rows = Together::new(rows.map(|row| &row[b * BLOCK..][..BLOCK]), BLOCK);
                    let blocks = panels.map(|panel| panel[b].as_chunks::<LANES>().0);
                    for block in blocks {
                        prefetch_all(block.as_flattened(), ahead);
                    }
                    let mut products = [[simd.zero(); T]; N];
                    for i in 0..$bytes {
                        for half in 0..BLOCK / $bytes {
                            let mut lanes = [simd.zero(); N];
                            for n in 0..N {
                                // Two lines of scales stand before the codes.
                                lanes[n] = code_vector::<L, { $bytes }>(simd, &blocks[n][2 + i], half);
                            }
                            // SAFETY: below a block's numbers, which each row has.
                            unsafe { rows.add::<L, N>(simd, i + half * $bytes, lanes, &mut products) };
                        }
                    }
                    for n in 0..N {
                        let scales = simd.load_f16(panels[n][b].first_chunk().expect("sixteen scales"));
                        for t in 0..T {
                            sums[n][t] = simd.multiply_add(products[n][t], scales, sums[n][t]);
                        }
                    }
                }
                sums
            }

            #[inline(always)]
            fn weigh<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                shares: [&[f32]; T],
                values: &[u8],
                first: usize,
                ahead: usize,
                sums: &mut [[L::Vector; T]; N],
            ) {
                let (part, vector) = (first / Self::PARTS, first % Self::PARTS);
                let (scales, codes) =
                    values[part * Self::PART_BYTES..][..Self::PART_BYTES].split_at(2 * PAGE);
                if vector == 0 {
                    prefetch_all(scales, ahead);
                }
                let count = shares[0].len().min(PAGE);
                let codes = &codes.as_chunks::<{ $bytes }>().0[..count];
                let weights = weighted::<L, T>(simd, shares, scales);
                let weights = Together::new(weights.each_ref().map(|weights| &weights[..count]), count);
                if ahead > 0 {
                    add_codes::<L, T, N, { $bytes }, true>(simd, weights, codes, vector, ahead, sums);
                } else {
                    add_codes::<L, T, N, { $bytes }, false>(simd, weights, codes, vector, ahead, sums);
                }
            }
        }
    };
}

page_formats_of_codes!(Bytes, BLOCK);
page_formats_of_codes!(Nibbles, BLOCK / 2);

/// Codes of a byte each, where a block has as many bytes as numbers; else one half or the other of each byte.
#[inline(always)]
fn code_vector<L: Lanes, const BYTES: usize>(simd: L, codes: &[u8; LANES], half: usize) -> L::Vector {
    if BYTES == BLOCK { simd.load_i8(codes) } else { simd.load_i4(codes, half == 1) }
}

/// Shares times each position's scale; what stands behind the shares means nothing.
#[inline(always)]
fn weighted<L: Lanes, const T: usize>(simd: L, shares: [&[f32]; T], scales: &[u8]) -> [[f32; PAGE]; T] {
    let mut weights = [[0.0; PAGE]; T];
    for (weights, shares) in weights.iter_mut().zip(shares) {
        weights[..shares.len()].copy_from_slice(shares);
        for (weights, scales) in weights.as_chunks_mut::<LANES>().0.iter_mut().zip(scales.as_chunks().0) {
            let scaled: [f32; LANES] =
                simd.to_array(simd.multiply(simd.load_array(weights), simd.load_f16(scales)));
            *weights = scaled;
        }
    }
    weights
}
