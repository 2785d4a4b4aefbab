//! `tq2_0`: 256 two-bit codes with one scale, meant for ternary values. Read-only.
//!
//! ```text
//! byte 0..64   qs  for each 128 codes 32 bytes: byte j has, from bit 0 up, j, j + 32, j + 64, j + 96
//! byte 64..66  d   f16                                                               x = d · (code − 1)
//! ```
//!
//! Upstream writes the codes 0 to 2. Code 3 decodes to 2d. Source: `block_tq2_0`, `dequantize_row_tq2_0`.

use super::{Block, Format, f16_at, quarters};

/// `tq2_0`.
pub struct Tq2_0;

impl Format for Tq2_0 {
    fn name(&self) -> &'static str {
        "tq2_0"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 256, bytes: 66 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<66, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 64);
                for (x, code) in out.iter_mut().zip(quarters::unpack(&block[..64])) {
                    *x = f32::from(code as i8 - 1) * d;
                }
            },
        );
    }
}
