//! `iq3_s`: 256 values in eight groups of 32 with 4-bit scales. Four values are a point of a codebook, with signs.
//! Read-only.
//!
//! ```text
//! byte 0..2      d       f16
//! byte 2..66     qs      low 8 bits of the index of point i in byte i
//! byte 66..74    qh      bit i % 8 of byte i / 8 is the high bit of the index of point i
//! byte 74..106   signs   bit j % 8 of byte j / 8 negates value j
//! byte 106..110  scales  group 2j in the low half of byte j, group 2j + 1 in the high half
//!                                                                    x = d · (2·scale + 1) · ±level
//! ```
//!
//! Source: `block_iq3_s`, `dequantize_row_iq3_s`. The codebook is in `codebooks`.

use super::codebooks::{IQ3_S, signed};
use super::{Block, Format, f16_at};

/// `iq3_s`.
pub struct Iq3S;

impl Format for Iq3S {
    fn name(&self) -> &'static str {
        "iq3_s"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 110 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<110, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let points = out.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..66]);
                for (i, (out, &low)) in points.enumerate() {
                    let high = block[66 + i / 8] >> (i % 8) & 1;
                    let signs = block[74 + i / 2] >> (4 * (i % 2));
                    let scale = block[106 + i / 16] >> (4 * (i / 8 % 2)) & 15;
                    let scale = d * f32::from(2 * scale + 1);
                    signed(out, &IQ3_S[usize::from(low) | usize::from(high) << 8], scale, signs);
                }
            },
        );
    }
}
