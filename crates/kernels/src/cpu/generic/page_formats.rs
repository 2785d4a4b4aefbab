//! The operations of attention on pages of each format: products of queries with keys, and weighted sums of values.
//!
//! A page has 64 positions. A panel is the keys of 16 positions, stored side by side, so that a lane belongs to one
//! key. A vector of values is 16 elements of a head; a part is one or two vectors of values for all positions of a
//! page. A block is 32 elements that share a scale.
//!
//! Invariant: each sum belongs to one row and one lane, and the order of its additions is fixed. The sum does not
//! depend on the other sums of the same call.

use super::lanes::Lanes;
use crate::cpu::prefetch::prefetch;
use crate::kv_format::{BLOCK, LANES, PAGE};

/// Number of bytes of a cache line.
const LINE: usize = 64;

/// The page layout of a format. The functions process `T` rows and `N` panels or vectors at the same time, so that
/// there are enough independent accumulators to hide the latency of the additions.
pub(crate) trait PageFormat {
    /// Number of vectors of values of a head that are stored together as a part.
    const PART_VECTORS: usize;
    /// Number of bytes of a part, for all positions of a page.
    const PART_BYTES: usize;
    /// Maximum number of vectors of values that are summed at the same time.
    const MAX_VECTORS: usize;

    /// Returns the products of query rows with panels of keys. Each row has all floats of one head. The function
    /// prefetches the bytes at distance `prefetch_distance` from the bytes that it reads; 0 means no prefetch.
    fn scores<L: Lanes, const T: usize, const N: usize>(
        simd: L,
        rows: [&[f32]; T],
        panels: [&[u8]; N],
        prefetch_distance: usize,
    ) -> [[L::Vector; T]; N];

    /// Adds weighted values to `sums`, for the `N` vectors of values from `first` on: for each position i of `weights`
    /// from `begin` on, `weights[t][i]` times the values of this position. A weight is an exponential of softmax, not yet
    /// divided by the sum of the exponentials. `prefetch_distance` has the same meaning as in `scores`.
    fn add_weighted_values<L: Lanes, const T: usize, const N: usize>(
        simd: L,
        weights: [&[f32]; T],
        begin: usize,
        values: &[u8],
        first: usize,
        prefetch_distance: usize,
        sums: &mut [[L::Vector; T]; N],
    );
}

/// The page layout of `f32`.
pub(crate) struct Floats;
/// The page layout of `f16`.
pub(crate) struct Halves;
/// The page layout of `q8_0`.
pub(crate) struct Bytes;
/// The page layout of `q4_0`.
pub(crate) struct Nibbles;

/// Rows of floats that are multiplied together. Invariant: each row has at least `count` floats.
#[derive(Clone, Copy)]
struct RowGroup<'a, const T: usize> {
    rows: [&'a [f32]; T],
    count: usize,
}

impl<'a, const T: usize> RowGroup<'a, T> {
    /// Creates a group. Panics unless each row has at least `count` floats.
    #[inline(always)]
    fn new(rows: [&'a [f32]; T], count: usize) -> Self {
        assert!(rows.iter().all(|row| row.len() >= count), "a number for every lane");
        Self { rows, count }
    }

    /// Adds, for each row t and each n, element `i` of row t times `lanes[n]` to `sums[n][t]`.
    ///
    /// # Safety
    /// `i` is below `count`. The function does not check this, because a check for each element would take as long as
    /// the additions.
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
            // SAFETY: the caller guarantees `i < count`, and each row has `count` floats.
            let factor = simd.splat(unsafe { *row.get_unchecked(i) });
            for n in 0..N {
                sums[n][t] = simd.multiply_add(factor, lanes[n], sums[n][t]);
            }
        }
    }
}

/// Adds, for each row t, each part n and each index i, element i of row t times vector i of part n to `sums[n][t]`.
/// Here a part is any sequence of consecutive vectors of sixteen floats. A vector has `BYTES` bytes.
#[inline(always)]
fn add_all<L: Lanes, const T: usize, const N: usize, const BYTES: usize>(
    simd: L,
    rows: [&[f32]; T],
    parts: [&[u8]; N],
    prefetch_distance: usize,
    sums: &mut [[L::Vector; T]; N],
) {
    let parts = parts.map(|part| part.as_chunks::<BYTES>().0);
    let count = parts[0].len();
    let rows = RowGroup::new(rows, count);
    if prefetch_distance > 0 {
        add_parts::<L, T, N, BYTES, true>(simd, rows, parts, prefetch_distance, sums);
    } else {
        add_parts::<L, T, N, BYTES, false>(simd, rows, parts, prefetch_distance, sums);
    }
}

/// Computes [`add_all`]. If `PREFETCH` is true, the function prefetches the bytes at distance `prefetch_distance`,
/// vector by vector, because all prefetches at the same time would fill the memory queue.
///
/// # Panics
/// If a part does not have one vector per element of a row.
#[inline(always)]
fn add_parts<L: Lanes, const T: usize, const N: usize, const BYTES: usize, const PREFETCH: bool>(
    simd: L,
    rows: RowGroup<'_, T>,
    parts: [&[[u8; BYTES]]; N],
    prefetch_distance: usize,
    sums: &mut [[L::Vector; T]; N],
) {
    assert!(parts.iter().all(|part| part.len() == rows.count), "parts of one length");
    let mut all = *sums;
    for i in 0..rows.count {
        let mut lanes = [simd.zero(); N];
        for (lane, part) in lanes.iter_mut().zip(&parts) {
            // SAFETY: every part has `count` vectors (asserted above), and `i` is below `count`.
            let bytes = unsafe { part.get_unchecked(i) };
            if PREFETCH {
                prefetch::<true>(bytes.as_ptr().wrapping_add(prefetch_distance));
            }
            *lane = float_vector::<L, BYTES>(simd, bytes);
        }
        // SAFETY: `i` is below `rows.count`.
        unsafe { rows.add::<L, N>(simd, i, lanes, &mut all) };
    }
    *sums = all;
}

/// Adds, for each row t and each position i, element i of row t times the codes of position i to `sums[n][t]`. `codes`
/// has one block of codes per position. Element n of `sums` belongs to vector `vector` + n of the block. If `PREFETCH`
/// is true, the function prefetches the bytes at distance `prefetch_distance` from each block.
///
/// # Panics
/// If there is not one block per element of a row, or if a block does not have the `N` vectors from `vector` on.
#[inline(always)]
fn add_codes<L: Lanes, const T: usize, const N: usize, const BYTES: usize, const PREFETCH: bool>(
    simd: L,
    rows: RowGroup<'_, T>,
    codes: &[[u8; BYTES]],
    vector: usize,
    prefetch_distance: usize,
    sums: &mut [[L::Vector; T]; N],
) {
    assert!(
        codes.len() == rows.count && vector + N <= BLOCK / LANES,
        "codes for every number, of vectors of a block"
    );
    let mut all = *sums;
    for (i, codes) in codes.iter().enumerate() {
        if PREFETCH {
            prefetch::<true>(codes.as_ptr().wrapping_add(prefetch_distance));
        }
        let mut lanes = [simd.zero(); N];
        for (n, lane) in lanes.iter_mut().enumerate() {
            let (line, half) = if BYTES == BLOCK { (vector + n, 0) } else { (0, vector + n) };
            *lane = code_vector::<L, BYTES>(simd, &codes.as_chunks().0[line], half);
        }
        // SAFETY: `i` is below `codes.len()`, which equals `rows.count` (asserted above).
        unsafe { rows.add::<L, N>(simd, i, lanes, &mut all) };
    }
    *sums = all;
}

/// Prefetches `bytes.len()` bytes at distance `prefetch_distance` from `bytes`, cache line by cache line; 0 means no
/// prefetch.
#[inline(always)]
fn prefetch_all(bytes: &[u8], prefetch_distance: usize) {
    if prefetch_distance > 0 {
        for line in (0..bytes.len()).step_by(LINE) {
            prefetch::<true>(bytes.as_ptr().wrapping_add(prefetch_distance + line));
        }
    }
}

/// Loads sixteen floats: `f32` if they have four bytes each, `f16` if they have two bytes each.
#[inline(always)]
fn float_vector<L: Lanes, const BYTES: usize>(simd: L, bytes: &[u8; BYTES]) -> L::Vector {
    match bytes.first_chunk() {
        Some(floats) => simd.load_f32(floats),
        None => simd.load_f16(bytes.first_chunk().expect("sixteen halves")),
    }
}

macro_rules! page_formats_of_floats {
    ($format:ty, $bytes:literal) => {
        impl PageFormat for $format {
            const PART_VECTORS: usize = 1;
            const PART_BYTES: usize = PAGE * $bytes * LANES;
            const MAX_VECTORS: usize = 4;

            #[inline(always)]
            fn scores<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                rows: [&[f32]; T],
                panels: [&[u8]; N],
                prefetch_distance: usize,
            ) -> [[L::Vector; T]; N] {
                let mut sums = [[simd.zero(); T]; N];
                add_all::<L, T, N, { $bytes * LANES }>(simd, rows, panels, prefetch_distance, &mut sums);
                sums
            }

            #[inline(always)]
            fn add_weighted_values<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                weights: [&[f32]; T],
                begin: usize,
                values: &[u8],
                first: usize,
                prefetch_distance: usize,
                sums: &mut [[L::Vector; T]; N],
            ) {
                let bytes = begin * $bytes * LANES..weights[0].len() * $bytes * LANES;
                let parts = std::array::from_fn(|n| &values[(first + n) * Self::PART_BYTES..][bytes.clone()]);
                let weights = weights.map(|weights| &weights[begin..]);
                add_all::<L, T, N, { $bytes * LANES }>(simd, weights, parts, prefetch_distance, sums);
            }
        }
    };
}

page_formats_of_floats!(Floats, 4);
page_formats_of_floats!(Halves, 2);

macro_rules! page_formats_of_codes {
    ($format:ty, $bytes:expr) => {
        impl PageFormat for $format {
            const PART_VECTORS: usize = BLOCK / LANES;
            const PART_BYTES: usize = PAGE * (2 + $bytes);
            // At most the vectors of one part, because each part has its own scales.
            const MAX_VECTORS: usize = Self::PART_VECTORS;

            #[inline(always)]
            fn scores<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                rows: [&[f32]; T],
                panels: [&[u8]; N],
                prefetch_distance: usize,
            ) -> [[L::Vector; T]; N] {
                let panels = panels.map(|panel| panel.as_chunks::<{ (2 + $bytes) * LANES }>().0);
                let count = panels[0].len();
                assert!(panels.iter().all(|panel| panel.len() == count), "panels of one length");
                let mut sums = [[simd.zero(); T]; N];
                for b in 0..count {
                    let rows = RowGroup::new(rows.map(|row| &row[b * BLOCK..][..BLOCK]), BLOCK);
                    let blocks = panels.map(|panel| panel[b].as_chunks::<LANES>().0);
                    for block in blocks {
                        prefetch_all(block.as_flattened(), prefetch_distance);
                    }
                    let mut products = [[simd.zero(); T]; N];
                    for i in 0..$bytes {
                        for half in 0..BLOCK / $bytes {
                            let mut lanes = [simd.zero(); N];
                            for n in 0..N {
                                // The sixteen scales fill the first two groups of sixteen bytes; the codes follow.
                                lanes[n] = code_vector::<L, { $bytes }>(simd, &blocks[n][2 + i], half);
                            }
                            // SAFETY: the index is below 32, and each row has 32 elements of this block.
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
            fn add_weighted_values<L: Lanes, const T: usize, const N: usize>(
                simd: L,
                weights: [&[f32]; T],
                begin: usize,
                values: &[u8],
                first: usize,
                prefetch_distance: usize,
                sums: &mut [[L::Vector; T]; N],
            ) {
                let (part, vector) = (first / Self::PART_VECTORS, first % Self::PART_VECTORS);
                let (scales, codes) =
                    values[part * Self::PART_BYTES..][..Self::PART_BYTES].split_at(2 * PAGE);
                if vector == 0 {
                    prefetch_all(scales, prefetch_distance);
                }
                let positions = begin..weights[0].len().min(PAGE);
                let codes = &codes.as_chunks::<{ $bytes }>().0[positions.clone()];
                let scaled = scale_weights::<L, T>(simd, weights, scales);
                let rows = scaled.each_ref().map(|scaled| &scaled[positions.clone()]);
                let scaled = RowGroup::new(rows, codes.len());
                if prefetch_distance > 0 {
                    add_codes::<L, T, N, { $bytes }, true>(
                        simd,
                        scaled,
                        codes,
                        vector,
                        prefetch_distance,
                        sums,
                    );
                } else {
                    add_codes::<L, T, N, { $bytes }, false>(
                        simd,
                        scaled,
                        codes,
                        vector,
                        prefetch_distance,
                        sums,
                    );
                }
            }
        }
    };
}

page_formats_of_codes!(Bytes, BLOCK);
page_formats_of_codes!(Nibbles, BLOCK / 2);

/// Converts sixteen codes. If a block has one byte per value, each byte is a code. Otherwise each byte holds two codes,
/// and `half` selects the lower (0) or the upper (1) four bits.
#[inline(always)]
fn code_vector<L: Lanes, const BYTES: usize>(simd: L, codes: &[u8; LANES], half: usize) -> L::Vector {
    if BYTES == BLOCK { simd.load_i8(codes) } else { simd.load_i4(codes, half == 1) }
}

/// Returns the weight of each position times the scale of this position. Elements past the end of the weights are
/// unspecified.
#[inline(always)]
fn scale_weights<L: Lanes, const T: usize>(simd: L, weights: [&[f32]; T], scales: &[u8]) -> [[f32; PAGE]; T] {
    let mut scaled = [[0.0; PAGE]; T];
    for (scaled, weights) in scaled.iter_mut().zip(weights) {
        scaled[..weights.len()].copy_from_slice(weights);
        for (vector, scales) in scaled.as_chunks_mut::<LANES>().0.iter_mut().zip(scales.as_chunks().0) {
            let product: [f32; LANES] =
                simd.to_array(simd.multiply(simd.load_array(vector), simd.load_f16(scales)));
            *vector = product;
        }
    }
    scaled
}
