//! `q2_k`: 256 two-bit codes in sixteen groups of 16, with 4-bit scales and minima. Read-only.
//!
//! ```text
//! byte 0..16   scales  byte g: scale of group g in the low half, minimum in the high half
//! byte 16..80  qs      for each 128 codes 32 bytes: byte j has, from bit 0 up, j, j + 32, j + 64, j + 96
//! byte 80..82  d       f16
//! byte 82..84  dmin    f16                                              x = d·scale·code − dmin·min
//! ```
//!
//! Source: `block_q2_K`, `dequantize_row_q2_K`.

use super::{Block, Format, f16_at, quarters};

/// `q2_k`.
pub struct Q2K;

impl Format for Q2K {
    fn name(&self) -> &'static str {
        "q2_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 16, bytes: 84 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<84, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
                let codes = quarters::unpack(&block[16..80]);
                let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<16>().0);
                for ((out, codes), stored) in groups.zip(&block[..16]) {
                    let (scale, min) = (d * f32::from(stored & 15), dmin * f32::from(stored >> 4));
                    for (x, &code) in out.iter_mut().zip(codes) {
                        *x = scale * f32::from(code) - min;
                    }
                }
            },
        );
    }
}
