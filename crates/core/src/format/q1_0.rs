//! `q1_0`: 128 signs with one scale. Read-only.
//!
//! ```text
//! byte 0..2   d   f16
//! byte 2..18  qs  bit j % 8 of byte j / 8 is code j                                x[j] = d if the code is 1, −d if 0
//! ```
//!
//! Source: `block_q1_0`, `dequantize_row_q1_0`.

use super::{Block, Format, f16_at};

/// `q1_0`.
pub struct Q1_0;

impl Format for Q1_0 {
    fn name(&self) -> &'static str {
        "q1_0"
    }

    fn block(&self) -> Block {
        Block { elements: 128, group: 128, bytes: 18 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<18, 128>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                for (out, byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
                    for (bit, x) in out.iter_mut().enumerate() {
                        *x = if byte >> bit & 1 == 1 { d } else { -d };
                    }
                }
            },
        );
    }
}
