//! `tq1_0`: 256 ternary codes with one scale; five codes in a byte. Read-only.
//!
//! ```text
//! byte 0..32   qs  byte j has the codes j, j + 32, …, j + 128
//! byte 32..48  qs  byte 32 + j has the codes 160 + j, 176 + j, …, 224 + j
//! byte 48..52  qh  byte 48 + j has the codes 240 + j, 244 + j, 248 + j, 252 + j
//! byte 52..54  d   f16                                                               x = d · (code − 1)
//! ```
//!
//! A byte is a fraction of 256, and its codes are the first digits of this fraction in base 3. The first code has the
//! highest value. Digit n of byte b is ⌊3 · (b · 3ⁿ mod 256) / 256⌋.
//!
//! Source: `block_tq1_0`, `dequantize_row_tq1_0`.

use super::{Block, Format, f16_at};

/// `tq1_0`.
pub struct Tq1_0;

impl Format for Tq1_0 {
    fn name(&self) -> &'static str {
        "tq1_0"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 256, bytes: 54 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<54, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 52);
                decode_digits(&block[..32], d, &mut out[..160]);
                decode_digits(&block[32..48], d, &mut out[160..240]);
                decode_digits(&block[48..52], d, &mut out[240..]);
            },
        );
    }
}

/// Decodes the digits of `bytes`: digit 0 of all bytes, then digit 1 of all bytes, until `out` is full.
#[inline(always)]
fn decode_digits(bytes: &[u8], d: f32, out: &mut [f32]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    for (out, power) in out.chunks_exact_mut(bytes.len()).zip(POWERS) {
        for (x, byte) in out.iter_mut().zip(bytes) {
            let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
            *x = (f32::from(digit) - 1.0) * d;
        }
    }
}
