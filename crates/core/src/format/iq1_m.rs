//! `iq1_m`: 256 values in sixteen groups of 16 with 3-bit scales. Eight values are a point of a codebook. Read-only.
//!
//! ```text
//! byte 0..32   qs      low 8 bits of the index of point i in byte i
//! byte 32..48  qh      4 bits per point, point 2j low, point 2j + 1 high: 3 high bits of the index; sign of the shift
//! byte 48..56  scales  4 × u16: 4 × 3 bits scale, from bit 0 up (group g in word g / 4); bits 12–15 of word n are bits
//!                      4n to 4n + 3 of d, an f16
//!                      x = d · (2·scale + 1) · (level + shift), shift = 1/8, or −1/8 if its sign is set
//! ```
//!
//! Source: `block_iq1_m`, `dequantize_row_iq1_m`. The codebook is in `codebooks`.

use super::codebooks::{IQ1, IQ1_SHIFT, shifted};
use super::{Block, Format};
use half::f16;

/// `iq1_m`.
pub struct Iq1M;

impl Format for Iq1M {
    fn name(&self) -> &'static str {
        "iq1_m"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 16, bytes: 56 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<56, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let word = |n: usize| u16::from_le_bytes([block[48 + 2 * n], block[49 + 2 * n]]);
                let bits = (0..4).fold(0, |bits, n| bits | word(n) >> 12 << (4 * n));
                let d = f16::from_bits(bits).to_f32();
                let points = block[..32].as_chunks::<2>().0.iter().zip(&block[32..48]);
                for (group, (out, (low, high))) in
                    out.as_chunks_mut::<16>().0.iter_mut().zip(points).enumerate()
                {
                    let scale = d * f32::from(2 * (word(group / 4) >> (3 * (group % 4)) & 7) + 1);
                    for (i, (out, &low)) in out.as_chunks_mut::<8>().0.iter_mut().zip(low).enumerate() {
                        let high = high >> (4 * i) & 15;
                        let shift = if high >> 3 == 1 { -IQ1_SHIFT } else { IQ1_SHIFT };
                        let index = u16::from(low) | u16::from(high & 7) << 8;
                        shifted(out, &IQ1[usize::from(index)], scale, shift);
                    }
                }
            },
        );
    }
}
