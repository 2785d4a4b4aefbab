//! `iq2_s`: 256 values in sixteen groups of 16 with 4-bit scales. Eight values are a point of a codebook, with signs.
//! Read-only.
//!
//! ```text
//! byte 0..2    d       f16
//! byte 2..34   qs      low 8 bits of the index of point i in byte i
//! byte 34..66  signs   byte i: bit j negates value j of point i
//! byte 66..74  qh      byte j has, from bit 0 up, the 2 high bits of the indices of points 4j to 4j + 3
//! byte 74..82  scales  group 2j in the low half of byte j, group 2j + 1 in the high half
//!                                                                    x = d · (scale + 1/2) / 4 · ±level
//! ```
//!
//! Source: `block_iq2_s`, `dequantize_row_iq2_s`. The codebook is in `codebooks`.

use super::codebooks::{IQ2_S, signed};
use super::{Block, Format, f16_at};

/// `iq2_s`.
pub struct Iq2S;

impl Format for Iq2S {
    fn name(&self) -> &'static str {
        "iq2_s"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 16, bytes: 82 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<82, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let stored = block[2..34].iter().zip(&block[34..66]);
                for (i, (out, (&low, &signs))) in
                    out.as_chunks_mut::<8>().0.iter_mut().zip(stored).enumerate()
                {
                    let high = block[66 + i / 4] >> (2 * (i % 4)) & 3;
                    let scale = block[74 + i / 4] >> (4 * (i / 2 % 2)) & 15;
                    let scale = d * (0.5 + f32::from(scale)) * 0.25;
                    signed(out, &IQ2_S[usize::from(low) | usize::from(high) << 8], scale, signs);
                }
            },
        );
    }
}
