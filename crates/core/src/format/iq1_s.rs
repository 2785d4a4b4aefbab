//! `iq1_s`: 256 values in eight groups of 32 with 3-bit scales. Eight values are a point of a codebook. Read-only.
//!
//! ```text
//! byte 0..2    d   f16
//! byte 2..34   qs  low 8 bits of the index of point i in byte i
//! byte 34..50  qh  u16 per group: 4 × 3 high bits of the indices, from bit 0 up; 3 bits scale; 1 bit sign of the shift
//!                  x = d · (2·scale + 1) · (level + shift), shift = 1/8, or −1/8 if its sign is set
//! ```
//!
//! Source: `block_iq1_s`, `dequantize_row_iq1_s`. The codebook is in `codebooks`.

use super::codebooks::{IQ1, IQ1_SHIFT, shifted};
use super::{Block, Format, f16_at};

/// `iq1_s`.
pub struct Iq1S;

impl Format for Iq1S {
    fn name(&self) -> &'static str {
        "iq1_s"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 50 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<50, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let high = block[34..].as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
                let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(block[2..34].as_chunks::<4>().0);
                for ((out, low), high) in groups.zip(high) {
                    let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
                    let shift = if high >> 15 == 1 { -IQ1_SHIFT } else { IQ1_SHIFT };
                    for (i, (out, &low)) in out.as_chunks_mut::<8>().0.iter_mut().zip(low).enumerate() {
                        let index = u16::from(low) | (high >> (3 * i) & 7) << 8;
                        shifted(out, &IQ1[usize::from(index)], scale, shift);
                    }
                }
            },
        );
    }
}
