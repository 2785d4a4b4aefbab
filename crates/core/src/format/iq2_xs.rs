//! `iq2_xs`: 256 values in sixteen groups of 16 with 4-bit scales. Eight values are a point of a codebook, with signs.
//! Read-only.
//!
//! ```text
//! byte 0..2    d       f16
//! byte 2..66   qs      u16 per point: 9 bits index, then 7 bits signs
//! byte 66..74  scales  group 2j in the low half of byte j, group 2j + 1 in the high half
//!                                                                    x = d · (scale + 1/2) / 4 · ±level
//! ```
//!
//! The signs of a point are seven stored bits and an eighth bit that makes the number of negative signs even. Bit j
//! negates value j.
//!
//! Source: `block_iq2_xs`, `dequantize_row_iq2_xs`. The codebook is in `codebooks`.

use super::codebooks::{IQ2_XS, even_signs, signed};
use super::{Block, Format, f16_at};

/// `iq2_xs`.
pub struct Iq2Xs;

impl Format for Iq2Xs {
    fn name(&self) -> &'static str {
        "iq2_xs"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 16, bytes: 74 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<74, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let points = out.as_chunks_mut::<8>().0.iter_mut().zip(block[2..66].as_chunks::<2>().0);
                for (i, (out, bytes)) in points.enumerate() {
                    let stored = u16::from_le_bytes(*bytes);
                    let scale = block[66 + i / 4] >> (4 * (i / 2 % 2)) & 15;
                    let scale = d * (0.5 + f32::from(scale)) * 0.25;
                    signed(
                        out,
                        &IQ2_XS[usize::from(stored & 511)],
                        scale,
                        even_signs(u32::from(stored >> 9)),
                    );
                }
            },
        );
    }
}
