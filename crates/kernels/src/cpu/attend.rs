//! The inner loops of attention over pages of keys and values, inlined into functions of each instruction set.
//!
//! ```text
//! for each page, for up to four or eight rows (queries of heads that share keys and values) at a time:
//!     s ← scores of the page's 64 keys, −∞ where a row may not look
//!     m' ← max(m, max s);  l ← l · e^(m − m') + Σ e^(s − m');  o ← o · e^(m − m') + Σ e^(s − m') v;  m ← m'
//! o ← o / l
//! ```
//!
//! Source: Dao et al., FlashAttention, arXiv 2205.14135. Pages begin at fixed positions and every sum has its own order,
//! so a row's result does not depend on what is computed beside it.

use super::body::{exp, multiply_add, pairwise};
use crate::KvFormat;
use crate::cpu::prefetch;
use crate::key_values::{BLOCK, LANES, PAGE, PANELS};

/// Sixteen numbers.
type Lane = [f32; LANES];

/// How an instruction set widens sixteen halves.
pub(crate) trait Widen {
    /// Whether it multiplies and adds in one step.
    const FUSED: bool;
    /// Rows that read a page's keys and values together, at most: 8 or 4.
    const TOGETHER: usize;

    fn halves(bytes: &[u8; 2 * LANES]) -> Lane;

    /// sum + factor · lane. Vectors have to be called by name: left to itself, the compiler takes rows for lanes.
    fn add(sum: Lane, factor: f32, lane: Lane) -> Lane;
}

/// What a page of a format gives.
trait Pages {
    /// Numbers of a head whose values stand together, in vectors.
    const PARTS: usize;
    /// Bytes of such values.
    const PART_BYTES: usize;

    /// Products of some rows (all of one head's numbers) with a panel of keys.
    fn scores<W: Widen, const T: usize>(rows: [&[f32]; T], panel: &[u8]) -> [Lane; T];

    /// `sums` += Σ shares × values, of vector `vector` of a part, over the positions that `shares` has.
    fn weigh<W: Widen, const T: usize>(shares: [&[f32]; T], part: &[u8], vector: usize, sums: &mut [Lane; T]);
}

#[inline(always)]
fn add<W: Widen>(sum: &mut Lane, factor: f32, lane: &Lane) {
    *sum = W::add(*sum, factor, *lane);
}

/// Rows of numbers that are multiplied together. Invariant: each has `count` numbers at least.
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

    /// Each row's sums += its number `i` · `lane`. Panics where there is none.
    #[inline(always)]
    fn add<W: Widen>(&self, i: usize, lane: &Lane, sums: &mut [Lane; T]) {
        assert!(i < self.count, "a number of each row");
        for (row, sum) in self.rows.iter().zip(sums) {
            // SAFETY: below the length of each row, by the invariant. Eight checks would take as long as the sums.
            add::<W>(sum, unsafe { *row.get_unchecked(i) }, lane);
        }
    }
}

/// Numbers as they are.
struct Floats;
/// Half floats.
struct Halves;
/// `q8_0`.
struct Bytes;
/// `q4_0`.
struct Nibbles;

#[inline(always)]
fn floats(bytes: &[u8; 4 * LANES]) -> Lane {
    std::array::from_fn(|i| {
        f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
    })
}

macro_rules! plain_pages {
    ($pages:ty, $bytes:literal, $widen:expr) => {
        impl Pages for $pages {
            const PARTS: usize = 1;
            const PART_BYTES: usize = PAGE * $bytes * LANES;

            #[inline(always)]
            fn scores<W: Widen, const T: usize>(rows: [&[f32]; T], panel: &[u8]) -> [Lane; T] {
                let keys = panel.as_chunks::<{ $bytes * LANES }>().0;
                let rows = Together::new(rows, keys.len());
                let mut sums = [[0.0; LANES]; T];
                for (i, key) in keys.iter().enumerate() {
                    rows.add::<W>(i, &$widen(key), &mut sums);
                }
                sums
            }

            #[inline(always)]
            fn weigh<W: Widen, const T: usize>(
                shares: [&[f32]; T],
                part: &[u8],
                _vector: usize,
                sums: &mut [Lane; T],
            ) {
                let values = part.as_chunks::<{ $bytes * LANES }>().0;
                let values = &values[..shares[0].len()];
                let shares = Together::new(shares, values.len());
                let mut all = *sums;
                for (i, value) in values.iter().enumerate() {
                    shares.add::<W>(i, &$widen(value), &mut all);
                }
                *sums = all;
            }
        }
    };
}

plain_pages!(Floats, 4, floats);
plain_pages!(Halves, 2, W::halves);

#[inline(always)]
fn bytes(codes: &[u8; LANES]) -> Lane {
    codes.map(|code| f32::from(code.cast_signed()))
}

/// The lower or the upper four bits, less eight.
#[inline(always)]
fn nibbles(codes: &[u8; LANES], upper: bool) -> Lane {
    codes.map(|code| f32::from(((if upper { code >> 4 } else { code & 15 }).cast_signed()) - 8))
}

/// The blocks of a panel: scales, and codes of `rows` bytes for each key.
#[inline(always)]
fn blocks<const BYTES: usize>(panel: &[u8]) -> impl Iterator<Item = (&[u8; 2 * LANES], &[[u8; LANES]])> {
    panel.chunks_exact(BYTES).map(|block| {
        let (scales, codes) = block.split_at(2 * LANES);
        (scales.first_chunk().expect("sixteen scales"), codes.as_chunks().0)
    })
}

impl Pages for Bytes {
    const PARTS: usize = BLOCK / LANES;
    const PART_BYTES: usize = PAGE * (2 + BLOCK);

    #[inline(always)]
    fn scores<W: Widen, const T: usize>(rows: [&[f32]; T], panel: &[u8]) -> [Lane; T] {
        let mut sums = [[0.0; LANES]; T];
        for (b, (scales, codes)) in blocks::<{ 2 * LANES + BLOCK * LANES }>(panel).enumerate() {
            let rows = rows.map(|row| &row[b * BLOCK..][..BLOCK]);
            let mut products = [[0.0; LANES]; T];
            for (i, codes) in codes[..BLOCK].iter().enumerate() {
                let key = bytes(codes);
                for t in 0..T {
                    add::<W>(&mut products[t], rows[t][i], &key);
                }
            }
            scaled::<W, T>(&mut sums, &products, &W::halves(scales));
        }
        sums
    }

    #[inline(always)]
    fn weigh<W: Widen, const T: usize>(
        shares: [&[f32]; T],
        part: &[u8],
        vector: usize,
        sums: &mut [Lane; T],
    ) {
        let (scales, codes) = part.split_at(2 * PAGE);
        let codes = codes.as_chunks::<BLOCK>().0;
        weigh_codes::<W, T>(shares, scales, sums, &mut |i| {
            bytes(codes[i][vector * LANES..].first_chunk().expect("a vector"))
        });
    }
}

impl Pages for Nibbles {
    const PARTS: usize = BLOCK / LANES;
    const PART_BYTES: usize = PAGE * (2 + BLOCK / 2);

    #[inline(always)]
    fn scores<W: Widen, const T: usize>(rows: [&[f32]; T], panel: &[u8]) -> [Lane; T] {
        let mut sums = [[0.0; LANES]; T];
        for (b, (scales, codes)) in blocks::<{ 2 * LANES + BLOCK * LANES / 2 }>(panel).enumerate() {
            let rows = rows.map(|row| &row[b * BLOCK..][..BLOCK]);
            let mut products = [[0.0; LANES]; T];
            for (i, codes) in codes[..BLOCK / 2].iter().enumerate() {
                let (lower, upper) = (nibbles(codes, false), nibbles(codes, true));
                for t in 0..T {
                    add::<W>(&mut products[t], rows[t][i], &lower);
                    add::<W>(&mut products[t], rows[t][i + BLOCK / 2], &upper);
                }
            }
            scaled::<W, T>(&mut sums, &products, &W::halves(scales));
        }
        sums
    }

    #[inline(always)]
    fn weigh<W: Widen, const T: usize>(
        shares: [&[f32]; T],
        part: &[u8],
        vector: usize,
        sums: &mut [Lane; T],
    ) {
        let (scales, codes) = part.split_at(2 * PAGE);
        let codes = codes.as_chunks::<LANES>().0;
        weigh_codes::<W, T>(shares, scales, sums, &mut |i| nibbles(&codes[i], vector == 1));
    }
}

/// `sums` += products × scales.
#[inline(always)]
fn scaled<W: Widen, const T: usize>(sums: &mut [Lane; T], products: &[Lane; T], scales: &Lane) {
    for (sum, product) in sums.iter_mut().zip(products) {
        for lane in 0..LANES {
            sum[lane] = multiply_add_as::<W>(product[lane], scales[lane], sum[lane]);
        }
    }
}

#[inline(always)]
fn multiply_add_as<W: Widen>(a: f32, b: f32, c: f32) -> f32 {
    if W::FUSED { multiply_add::<true>(a, b, c) } else { multiply_add::<false>(a, b, c) }
}

/// Shares times each position's scale, times its codes.
#[inline(always)]
fn weigh_codes<W: Widen, const T: usize>(
    shares: [&[f32]; T],
    scales: &[u8],
    sums: &mut [Lane; T],
    values: &mut impl FnMut(usize) -> Lane,
) {
    let mut wide = [0.0f32; PAGE];
    for (wide, scales) in wide.as_chunks_mut::<LANES>().0.iter_mut().zip(scales.as_chunks().0) {
        *wide = W::halves(scales);
    }
    let count = shares[0].len().min(PAGE);
    let shares = shares.map(|shares| &shares[..count]);
    let mut all = *sums;
    for i in 0..count {
        let value = values(i);
        for t in 0..T {
            add::<W>(&mut all[t], shares[t][i] * wide[i], &value);
        }
    }
    *sums = all;
}

/// Rows with their results so far.
pub(crate) struct Rows<'a> {
    /// Numbers of a head.
    pub head_size: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Rows × head size.
    pub queries: &'a [f32],
    /// Positions that each may look at.
    pub visible: &'a [usize],
    /// Largest score and sum of each.
    pub state: &'a mut [[f32; 2]],
    /// Rows × head size in whole parts.
    pub sums: &'a mut [f32],
    /// Keys and values of the page after this one, which are asked for meanwhile; nothing where many rows wait for none.
    pub next: [&'a [u8]; 2],
}

/// Adds page `page`, its keys and values in `format`, to all rows.
#[inline(always)]
pub(crate) fn dispatch<W: Widen>(format: KvFormat, rows: &mut Rows, at: usize, keys: &[u8], values: &[u8]) {
    match format {
        KvFormat::F32 => page::<W, Floats>(rows, at, keys, values),
        KvFormat::F16 => page::<W, Halves>(rows, at, keys, values),
        KvFormat::Q8_0 => page::<W, Bytes>(rows, at, keys, values),
        KvFormat::Q4_0 => page::<W, Nibbles>(rows, at, keys, values),
    }
}

#[inline(always)]
fn page<W: Widen, P: Pages>(rows: &mut Rows, page: usize, keys: &[u8], values: &[u8]) {
    let seen = |row: usize| rows.visible[row].saturating_sub(page * PAGE).min(PAGE);
    let mut first = 0;
    while first < rows.visible.len() {
        let seen_here = seen(first);
        // Rows that see the same part of the page: what one may not see must not touch it, be it ever so large.
        let alike =
            (first..rows.visible.len().min(first + W::TOGETHER)).take_while(|&row| seen(row) == seen_here);
        let count = match alike.count() {
            4..8 => 4,
            count => count,
        };
        if seen_here > 0 {
            match count {
                1 => some::<W, P, 1>(rows, first, seen_here, keys, values),
                2 => some::<W, P, 2>(rows, first, seen_here, keys, values),
                3 => some::<W, P, 3>(rows, first, seen_here, keys, values),
                8 if W::TOGETHER == 8 => some::<W, P, 8>(rows, first, seen_here, keys, values),
                _ => some::<W, P, 4>(rows, first, seen_here, keys, values),
            }
        }
        first += count;
    }
    const { assert!(W::TOGETHER == 8 || W::TOGETHER == 4) };
}

#[inline(always)]
fn some<W: Widen, P: Pages, const T: usize>(
    rows: &mut Rows,
    first: usize,
    seen: usize,
    keys: &[u8],
    values: &[u8],
) {
    let size = rows.head_size;
    let queries: [&[f32]; T] = std::array::from_fn(|t| &rows.queries[(first + t) * size..][..size]);
    let mut shares = [[f32::NEG_INFINITY; PAGE]; T];
    let panels = keys.chunks_exact(keys.len() / PANELS);
    let [next_keys, next_values] = rows.next;
    for (panel, keys) in panels.take(seen.div_ceil(LANES)).enumerate() {
        ask_for(next_keys, panel, PANELS);
        let scores = P::scores::<W, T>(queries, keys);
        for t in 0..T {
            for lane in 0..LANES {
                let inside = panel * LANES + lane < seen;
                let score = scores[t][lane] * rows.scale;
                shares[t][panel * LANES + lane] = if inside { score } else { f32::NEG_INFINITY };
            }
        }
    }
    let mut shrink = [1.0f32; T];
    for t in 0..T {
        let [top, sum] = &mut rows.state[first + t];
        let higher = |a: f32, b: f32| if b > a { b } else { a };
        let mut tops = [f32::NEG_INFINITY; LANES];
        for part in shares[t].as_chunks::<LANES>().0 {
            tops.iter_mut().zip(part).for_each(|(top, x)| *top = higher(*top, *x));
        }
        let highest = tops.into_iter().fold(*top, higher);
        // Where all are −∞ so far, nothing is subtracted: −∞ − −∞ is no number.
        let base = if highest == f32::NEG_INFINITY { 0.0 } else { highest };
        let mut sums = [0.0f32; LANES];
        for part in shares[t].as_chunks_mut::<LANES>().0 {
            for (sum, x) in sums.iter_mut().zip(part) {
                *x = power::<W>(*x - base);
                *sum += *x;
            }
        }
        shrink[t] = power::<W>(*top - base);
        *sum = multiply_add_as::<W>(*sum, shrink[t], pairwise(sums));
        *top = highest;
    }
    let width = rows.sums.len() / rows.visible.len();
    let shares: [&[f32]; T] = std::array::from_fn(|t| &shares[t][..seen]);
    for (index, part) in values.chunks_exact(P::PART_BYTES).enumerate() {
        for vector in 0..P::PARTS {
            ask_for(next_values, index * P::PARTS + vector, values.len() / P::PART_BYTES * P::PARTS);
            let at = (index * P::PARTS + vector) * LANES;
            let mut sums: [Lane; T] = std::array::from_fn(|t| {
                let sums: &Lane = rows.sums[(first + t) * width + at..].first_chunk().expect("a vector");
                sums.map(|sum| sum * shrink[t])
            });
            P::weigh::<W, T>(shares, part, vector, &mut sums);
            for (t, sums) in sums.iter().enumerate() {
                rows.sums[(first + t) * width + at..][..LANES].copy_from_slice(sums);
            }
        }
    }
}

/// Asks for one of so many parts of what comes next: all at once would fill the queue to memory, and nothing else be done.
#[inline(always)]
fn ask_for(bytes: &[u8], part: usize, parts: usize) {
    let each = bytes.len().div_ceil(parts);
    for line in (part * each..bytes.len().min((part + 1) * each)).step_by(64) {
        prefetch::<false>(bytes.as_ptr().wrapping_add(line));
    }
}

#[inline(always)]
fn power<W: Widen>(x: f32) -> f32 {
    if W::FUSED { exp::<true>(x) } else { exp::<false>(x) }
}
