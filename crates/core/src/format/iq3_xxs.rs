//! `iq3_xxs`: 256 values in eight groups of 32 with 4-bit scales. Four values are a point of a codebook, with signs.
//! Read-only.
//!
//! ```text
//! byte 0..2    d   f16
//! byte 2..66   qs  the index of point i in byte i
//! byte 66..98      u32 per group: 4 × 7 bits signs, from bit 0 up, and 4 bits scale
//!                                                                    x = d · (scale + 1/2) / 2 · ±level
//! ```
//!
//! The signs of two points (eight values) are seven stored bits and an eighth bit that makes the number of negative
//! signs even. Bit j negates value j.
//!
//! Source: `block_iq3_xxs`, `dequantize_row_iq3_xxs`. The codebook is in `codebooks`.

use super::codebooks::{IQ3_XXS, even_signs, signed};
use super::{Block, Format, f16_at};

/// `iq3_xxs`.
pub struct Iq3Xxs;

impl Format for Iq3Xxs {
    fn name(&self) -> &'static str {
        "iq3_xxs"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 98 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<98, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let groups = block[2..66].as_chunks::<8>().0.iter().zip(block[66..].as_chunks::<4>().0);
                for (out, (indices, bytes)) in out.as_chunks_mut::<32>().0.iter_mut().zip(groups) {
                    let word = u32::from_le_bytes(*bytes);
                    let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
                    for (i, (out, &index)) in out.as_chunks_mut::<4>().0.iter_mut().zip(indices).enumerate() {
                        let signs = even_signs(word >> (7 * (i / 2))) >> (4 * (i % 2));
                        signed(out, &IQ3_XXS[usize::from(index)], scale, signs);
                    }
                }
            },
        );
    }
}
