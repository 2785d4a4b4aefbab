//! `q4_1` and `q5_1`: 32 codes of four or five bits with one scale and one minimum.
//!
//! ```text
//! q4_1   byte 0..2   d    f16
//!        byte 2..4   m    f16
//!        byte 4..20  qs   code j in the low half of qs[j], code j + 16 in the high half     x[j] = d · code + m
//!
//! q5_1   byte 0..4   d, m as above
//!        byte 4..8   qh   u32, bit j is the fifth bit of code j
//!        byte 8..24  qs   as above
//! ```
//!
//! Source: `block_q4_1`, `quantize_row_q4_1_ref` and the same for `q5_1`; with importance `quantize_row_q4_1_impl`,
//! where the weight of the squared error is importance · sqrt(mean square of the row + x²) and m is never above 0. In
//! [`Codes`], `dmin` is `−m` and the group's integer minimum is 1.

use super::fit::Group;
use super::lanes::{Lanes, Run, codes_from_lanes, each_run, map_lanes, to_lanes};
use super::{
    Block, Encoder, Format, Grid, Part, Scaling, codes_of, f16_at, halves, put_f16, search, stored_f16,
};
use crate::{Codes, Levels};

/// A format of `BITS`-bit codes in blocks of `BYTES` bytes.
pub struct Affine<const BITS: usize, const BYTES: usize>;

/// `q4_1`.
pub const Q4_1: Affine<4, 20> = Affine;
/// `q5_1`.
pub const Q5_1: Affine<5, 24> = Affine;

impl<const BITS: usize, const BYTES: usize> Affine<BITS, BYTES> {
    /// The highest code.
    const HIGHEST: f32 = ((1 << BITS) - 1) as f32;

    /// Encodes without importance: the codes cover the block's range.
    fn encode_by_range(rows: &[f32], dst: &mut [u8]) {
        super::each_block_mut::<BYTES, 32>(
            dst,
            rows,
            #[inline(always)]
            |block, x| {
                let (min, max) = search::range(x);
                let d = (max - min) / Self::HIGHEST;
                let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
                // As in upstream: add 0.5 and truncate. This differs from ties-to-even rounding.
                let codes = codes_of(
                    x,
                    #[inline(always)]
                    |x| search::truncated((x - min) * inverse + 0.5, Self::HIGHEST),
                );
                put_f16(block, 0, d);
                put_f16(block, 2, min);
                halves::pack_codes::<BITS>(&codes, &mut block[4..]);
            },
        );
    }
}

impl<const BITS: usize, const BYTES: usize> Format for Affine<BITS, BYTES> {
    fn name(&self) -> &'static str {
        if BITS == 4 { "q4_1" } else { "q5_1" }
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: BYTES }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<BYTES, 32>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let (d, m) = (f16_at(block, 0), f16_at(block, 2));
                let codes = halves::unpack_codes::<BITS>(&block[4..]);
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = f32::from(code) * d + m;
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl<const BITS: usize, const BYTES: usize> Encoder for Affine<BITS, BYTES> {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let Some(importance) = importance else {
            return Self::encode_by_range(rows, dst);
        };
        each_run::<BYTES, 32>(
            rows,
            importance,
            dst,
            #[inline(always)]
            |run| {
                let Run { x, importance, blocks, mean_square } = run;
                let transposed = to_lanes::<32>(x);
                let spread = Lanes::all(mean_square);
                let weights = search::weights(&transposed, &to_lanes(importance), spread);
                let found = search::affine(Self::HIGHEST, &transposed, &weights, search::WITH_IMPORTANCE);
                let codes = codes_from_lanes(map_lanes(&transposed, |x| found.code(x)));
                let scales = found.scale.0.into_iter().zip(found.least.0);
                for ((block, (scale, least)), codes) in blocks.iter_mut().zip(scales).zip(codes) {
                    put_f16(block, 0, scale);
                    put_f16(block, 2, least);
                    halves::pack_codes::<BITS>(&codes, &mut block[4..]);
                }
            },
        );
    }
}

impl<const BITS: usize, const BYTES: usize> Grid for Affine<BITS, BYTES> {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 1 << BITS, offset: 0 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::BlockAffine
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        (codes.d, codes.dmin) = (f16_at(block, 0), -f16_at(block, 2));
        (codes.scales[0], codes.mins[0]) = (1, 1);
        codes.codes.copy_from_slice(&halves::unpack_codes::<BITS>(&block[4..]));
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        put_f16(block, 2, -codes.dmin);
        halves::pack_codes::<BITS>(&codes.codes, &mut block[4..]);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        let (scale, least) = Group::<32>::new(x, importance).affine(Self::HIGHEST, true);
        (codes.d, codes.dmin) = (stored_f16(scale), -stored_f16(least));
        (codes.scales[0], codes.mins[0]) = (1, 1);
    }
}
