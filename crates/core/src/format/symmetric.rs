//! `q4_0` and `q5_0`: 32 codes of four or five bits with one scale; the levels are −8 to 7 or −16 to 15.
//!
//! ```text
//! q4_0   byte 0..2   d    f16
//!        byte 2..18  qs   code j in the low half of qs[j], code j + 16 in the high half     x[j] = d · (code − 8)
//!
//! q5_0   byte 0..2   d    f16
//!        byte 2..6   qh   u32, bit j is the fifth bit of code j
//!        byte 6..22  qs   as above                                                          x[j] = d · (code − 16)
//! ```
//!
//! Source: `block_q4_0`, `quantize_row_q4_0_ref` and the same for `q5_0`; with importance `quantize_row_q4_0_impl`,
//! where the weight of the squared error is importance · sqrt(mean square of the row + x²).

use super::fit::{Group, symmetric_level, symmetric_starts};
use super::lanes::{Lanes, Run, codes_from_lanes, each_run, map_lanes, to_lanes};
use super::{
    Block, Encoder, Format, Grid, Part, Scaling, codes_of, f16_at, halves, put_f16, search, stored_f16,
};
use crate::{Codes, Levels};

/// A format of `BITS`-bit codes in blocks of `BYTES` bytes.
pub struct Symmetric<const BITS: usize, const BYTES: usize>;

/// `q4_0`.
pub const Q4_0: Symmetric<4, 18> = Symmetric;
/// `q5_0`.
pub const Q5_0: Symmetric<5, 22> = Symmetric;

impl<const BITS: usize, const BYTES: usize> Symmetric<BITS, BYTES> {
    /// The code of level 0, which is also the magnitude of the lowest level.
    const OFFSET: u8 = 1 << (BITS - 1);

    /// Encodes without importance: the extreme becomes the lowest level.
    fn encode_by_extreme(rows: &[f32], dst: &mut [u8]) {
        let (lowest, highest_code) = (f32::from(Self::OFFSET), f32::from(2 * Self::OFFSET - 1));
        super::each_block_mut::<BYTES, 32>(
            dst,
            rows,
            #[inline(always)]
            |block, x| {
                let d = search::extreme(x) / -lowest;
                let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
                // As in upstream: add 0.5 and truncate. This differs from ties-to-even rounding.
                let codes = codes_of(
                    x,
                    #[inline(always)]
                    |x| search::truncated(x * inverse + (lowest + 0.5), highest_code),
                );
                put_f16(block, 0, d);
                halves::pack_codes::<BITS>(&codes, &mut block[2..]);
            },
        );
    }
}

impl<const BITS: usize, const BYTES: usize> Format for Symmetric<BITS, BYTES> {
    fn name(&self) -> &'static str {
        if BITS == 4 { "q4_0" } else { "q5_0" }
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
                let d = f16_at(block, 0);
                let codes = halves::unpack_codes::<BITS>(&block[2..]);
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = f32::from(code as i8 - Self::OFFSET as i8) * d;
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl<const BITS: usize, const BYTES: usize> Encoder for Symmetric<BITS, BYTES> {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let Some(importance) = importance else {
            return Self::encode_by_extreme(rows, dst);
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
                let found = search::symmetric(f32::from(Self::OFFSET), &transposed, &weights);
                let codes = codes_from_lanes(map_lanes(&transposed, |x| found.code(x)));
                for ((block, scale), codes) in blocks.iter_mut().zip(found.scale.0).zip(codes) {
                    put_f16(block, 0, scale);
                    halves::pack_codes::<BITS>(&codes, &mut block[2..]);
                }
            },
        );
    }
}

impl<const BITS: usize, const BYTES: usize> Grid for Symmetric<BITS, BYTES> {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 1 << BITS, offset: i16::from(Self::OFFSET) }
    }

    fn scaling(&self) -> Scaling {
        Scaling::Block
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = f16_at(block, 0);
        codes.scales[0] = 1;
        codes.codes.copy_from_slice(&halves::unpack_codes::<BITS>(&block[2..]));
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        halves::pack_codes::<BITS>(&codes.codes, &mut block[2..]);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        let group = Group::<32>::new(x, importance);
        let lowest = f32::from(Self::OFFSET);
        codes.d = stored_f16(group.scale(&symmetric_starts(lowest), symmetric_level(lowest)));
        codes.scales[0] = 1;
    }
}
