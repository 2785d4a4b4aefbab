//! `nvfp4`: 64 four-bit floating-point codes (E2M1) in four groups of 16 with 8-bit floating-point scales (E4M3).
//! Read-only.
//!
//! ```text
//! byte 0..4   d   scale of each group, E4M3 without sign
//! byte 4..36  qs  8 bytes per group: code j low, code j + 8 high (j < 8)       x = scale/2 · LEVELS[code]
//! ```
//!
//! As in `mxfp4`, the levels are doubled and the scale is halved. Upstream ignores bit 7 of a scale byte, with one
//! exception: only the byte 0x7F (NaN in E4M3) is a scale of 0. A model may have one more scale per tensor, in a tensor
//! of its own; it is not part of the format.
//!
//! Source: `block_nvfp4`, `dequantize_row_nvfp4`, `ggml_ue4m3_to_fp32`.

use super::mxfp4::LEVELS;
use super::{Block, Format};

/// `nvfp4`.
pub struct Nvfp4;

impl Format for Nvfp4 {
    fn name(&self) -> &'static str {
        "nvfp4"
    }

    fn block(&self) -> Block {
        Block { elements: 64, group: 16, bytes: 36 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<36, 64>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(block[4..].as_chunks::<8>().0);
                for ((out, bytes), &stored) in groups.zip(&block[..4]) {
                    let scale = half_scale(stored);
                    let (low, high) = out.split_at_mut(8);
                    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
                        *low = f32::from(LEVELS[usize::from(byte & 15)]) * scale;
                        *high = f32::from(LEVELS[usize::from(byte >> 4)]) * scale;
                    }
                }
            },
        );
    }
}

/// Returns half of the scale that a byte means.
#[inline(always)]
fn half_scale(stored: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(stored >> 3 & 15), f32::from(stored & 7));
    // The scale is (8 + mantissa) · 2^(exponent − 10), or mantissa · 2⁻⁹ if it is subnormal.
    let power = |exponent: u32| f32::from_bits(exponent << 23);
    match (stored, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * power(127 - 10),
        _ => (8.0 + mantissa) * power(127 + exponent - 11),
    }
}
