//! `iq2_xxs`: 256 values in eight groups of 32 with 4-bit scales. Eight values are a point of a codebook, with signs.
//! Read-only.
//!
//! ```text
//! byte 0..2   d   f16
//! byte 2..66  qs  8 bytes per group: 4 indices of points; u32: 4 × 7 bits signs, from bit 0 up, and 4 bits scale
//!                                                                    x = d · (scale + 1/2) / 4 · ±level
//! ```
//!
//! The signs of a point are seven stored bits and an eighth bit that makes the number of negative signs even. Bit j
//! negates value j.
//!
//! Source: `block_iq2_xxs`, `dequantize_row_iq2_xxs`. The codebook is in `codebooks`.

use super::codebooks::{IQ2_XXS, even_signs, signed};
use super::{Block, Format, f16_at};

/// `iq2_xxs`.
pub struct Iq2Xxs;

impl Format for Iq2Xxs {
    fn name(&self) -> &'static str {
        "iq2_xxs"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 66 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<66, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(block[2..].as_chunks::<8>().0);
                for (out, group) in groups {
                    let word = u32::from_le_bytes([group[4], group[5], group[6], group[7]]);
                    let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
                    for (i, (out, &index)) in out.as_chunks_mut::<8>().0.iter_mut().zip(group).enumerate() {
                        signed(out, &IQ2_XXS[usize::from(index)], scale, even_signs(word >> (7 * i)));
                    }
                }
            },
        );
    }
}
