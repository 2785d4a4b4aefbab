//! What `q4_k` and `q5_k` share: eight groups of 32 under 6-bit scales and minima, and the search for them.
//!
//! ```text
//! byte 0..2   d       f16
//! byte 2..4   dmin    f16
//! byte 4..16  scales  group j < 4: scale in the low 6 bits of byte j, min in the low 6 bits of byte j + 4;
//!                     group j ≥ 4: low 4 bits of both in byte j + 4 (scale low), high 2 bits in the high 2 bits
//!                     of byte j − 4 (scale) and byte j (min)
//! ```
//!
//! Source: `get_scale_min_k4`, `quantize_row_q4_K_ref`, `quantize_row_q5_K_ref`.

use super::{Part, array, f16_at, put_f16, search, stored_f16};
use crate::Codes;
use search::{Ladder, affine, nearest_int};

/// Scale and min of each of the eight groups of a stored block.
pub(super) fn unpack(block: &[u8]) -> [(u8, u8); 8] {
    let s = &block[4..16];
    std::array::from_fn(|j| {
        if j < 4 {
            (s[j] & 63, s[j + 4] & 63)
        } else {
            ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
        }
    })
}

fn pack(groups: &[(u8, u8); 8], block: &mut [u8]) {
    let s = &mut block[4..16];
    for j in 0..4 {
        s[j] = groups[j].0 | (groups[j + 4].0 >> 4) << 6;
        s[j + 4] = groups[j].1 | (groups[j + 4].1 >> 4) << 6;
        s[j + 8] = (groups[j + 4].0 & 15) | (groups[j + 4].1 & 15) << 4;
    }
}

/// Opens d, dmin and the groups' scales and mins.
pub(super) fn open(block: &[u8], codes: &mut Codes) {
    (codes.d, codes.dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (j, (scale, min)) in unpack(block).into_iter().enumerate() {
        (codes.scales[j], codes.mins[j]) = (scale.into(), min.into());
    }
}

/// Closes d, dmin and the groups' scales and mins.
pub(super) fn close(codes: &Codes, block: &mut [u8]) {
    put_f16(block, 0, codes.d);
    put_f16(block, 2, codes.dmin);
    let groups = std::array::from_fn(|j| (codes.scales[j] as u8 & 63, codes.mins[j] as u8 & 63));
    pack(&groups, block);
}

/// Scale and minimum of one group as real numbers.
fn group(n: i32, x: &[f32; 32], importance: Option<&[f32]>, mean_square: f32, ladder: Ladder) -> (f32, f32) {
    let root = search::mean_square(x).sqrt();
    affine(n, x, &search::weights(x, importance, mean_square, |x| root + x.abs()), ladder)
}

fn groups(n: i32, x: &[f32; 256], importance: Option<&[f32]>, ladder: Ladder) -> [(f32, f32); 8] {
    let mean_square = 2.0 * search::mean_square(x);
    std::array::from_fn(|j| {
        let own = importance.map(|i| &i[32 * j..][..32]);
        group(n, array(&x[32 * j..][..32]), own, mean_square, ladder)
    })
}

fn largest(groups: &[(f32, f32); 8]) -> (f32, f32) {
    groups.iter().fold((0.0, 0.0), |(s, m), g| (if g.0 > s { g.0 } else { s }, if g.1 > m { g.1 } else { m }))
}

/// Writes d, dmin, scales and mins of one block, and returns its codes of `0..=n`, rounded against what is stored.
pub(super) fn encode(
    n: i32,
    x: &[f32; 256],
    importance: Option<&[f32]>,
    ladder: Ladder,
    block: &mut [u8],
) -> [u8; 256] {
    let found = groups(n, x, importance, ladder);
    let (scale, min) = largest(&found);
    let (by_scale, by_min) = (inverse(scale), inverse(min));
    let stored: [(u8, u8); 8] = std::array::from_fn(|j| {
        let six_bits = |x: f32| nearest_int(x).clamp(0, 63) as u8;
        (six_bits(by_scale * found[j].0), six_bits(by_min * found[j].1))
    });
    put_f16(block, 0, scale / 63.0);
    put_f16(block, 2, min / 63.0);
    pack(&stored, block);
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let mut codes = [0u8; 256];
    for (j, (scale, min)) in stored.into_iter().enumerate() {
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        if scale == 0.0 {
            continue;
        }
        for (code, x) in codes[32 * j..][..32].iter_mut().zip(&x[32 * j..][..32]) {
            *code = nearest_int((x + min) / scale).clamp(0, n) as u8;
        }
    }
    codes
}

fn inverse(largest: f32) -> f32 {
    if largest > 0.0 { 63.0 / largest } else { 0.0 }
}

/// [`super::Grid::fit`] for both formats.
pub(super) fn fit(
    n: i32,
    x: &[f32],
    importance: Option<&[f32]>,
    part: Part,
    ladder: Ladder,
    codes: &mut Codes,
) {
    match part {
        Part::Block => {
            let (scale, min) = largest(&groups(n, array(x), importance, ladder));
            (codes.d, codes.dmin) = (stored_f16(scale / 63.0), stored_f16(min / 63.0));
        }
        Part::Group(j) => {
            let (scale, min) = group(n, array(x), importance, 2.0 * search::mean_square(x), ladder);
            let stored =
                |x: f32, unit: f32| if unit > 0.0 { nearest_int(x / unit).clamp(0, 63) as i16 } else { 0 };
            (codes.scales[j], codes.mins[j]) = (stored(scale, codes.d), stored(min, codes.dmin));
        }
    }
}
