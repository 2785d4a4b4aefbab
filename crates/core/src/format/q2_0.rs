//! `q2_0`: 64 two-bit codes with one scale; the levels are −1 to 2. Read-only.
//!
//! ```text
//! byte 0..2   d   f16
//! byte 2..18  qs  byte j has, from bit 0 up, the codes 4j to 4j + 3                          x = d · (code − 1)
//! ```
//!
//! Source: `block_q2_0`, `dequantize_row_q2_0`.

use super::{Block, Format, f16_at};

/// `q2_0`.
pub struct Q2_0;

impl Format for Q2_0 {
    fn name(&self) -> &'static str {
        "q2_0"
    }

    fn block(&self) -> Block {
        Block { elements: 64, group: 64, bytes: 18 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<18, 64>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                for (out, byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
                    for (place, x) in out.iter_mut().enumerate() {
                        let code = byte >> (2 * place) & 3;
                        *x = f32::from(code as i8 - 1) * d;
                    }
                }
            },
        );
    }
}
