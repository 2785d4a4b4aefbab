//! Floating-point formats: `f32`, `f16` and `bf16`, little endian, one value per block.
//!
//! Encoding rounds to nearest, ties to even. A value beyond the range of `f16` becomes infinity, as in upstream.

use super::{Block, Encoder, Format};
use half::{bf16, f16};

/// `f32`: IEEE 754 binary32.
pub struct F32;
/// `f16`: IEEE 754 binary16.
pub struct F16;
/// `bf16`: the upper half of binary32.
pub struct BF16;

macro_rules! float_format {
    ($type:ty, $name:literal, $bytes:literal, $decode:expr, $encode:expr) => {
        impl Format for $type {
            fn name(&self) -> &'static str {
                $name
            }

            fn block(&self) -> Block {
                Block { elements: 1, group: 1, bytes: $bytes }
            }

            fn decode(&self, src: &[u8], dst: &mut [f32]) {
                assert_eq!(src.len(), dst.len() * $bytes);
                let decode: fn(&[[u8; $bytes]], &mut [f32]) = $decode;
                decode(src.as_chunks().0, dst);
            }

            fn encoder(&self) -> Option<&dyn Encoder> {
                Some(self)
            }
        }

        impl Encoder for $type {
            fn encode(&self, rows: &[f32], _importance: Option<&[f32]>, dst: &mut [u8]) {
                assert_eq!(dst.len(), rows.len() * $bytes);
                for (bytes, &x) in dst.as_chunks_mut::<$bytes>().0.iter_mut().zip(rows) {
                    *bytes = $encode(x);
                }
            }
        }
    };
}

fn decode_f32(src: &[[u8; 4]], dst: &mut [f32]) {
    dst.iter_mut().zip(src).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
}

fn decode_f16(src: &[[u8; 2]], dst: &mut [f32]) {
    super::each_block::<2, 1>(
        src.as_flattened(),
        dst,
        #[inline(always)]
        |half, x| *x = [f16_to_f32(u16::from_le_bytes(*half))],
    );
}

/// Converts an `f16` to `f32`. Unlike the conversion of the `half` crate, these operations are vectorized.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    // The exponent biases differ by 127 − 15 = 112. A multiplication by 2¹¹² is correct also for subnormal values.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let not_finite = magnitude | 0x7f80_0000;
    let bits = if magnitude < 0x7c00 << 13 { finite } else { not_finite };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

fn decode_bf16(src: &[[u8; 2]], dst: &mut [f32]) {
    dst.iter_mut().zip(src).for_each(|(x, b)| *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
}

float_format!(F32, "f32", 4, decode_f32, f32::to_le_bytes);
float_format!(F16, "f16", 2, decode_f16, |x| f16::from_f32(x).to_le_bytes());
float_format!(BF16, "bf16", 2, decode_bf16, |x| bf16::from_f32(x).to_le_bytes());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{bits:#06x}: expected {expected}, found {found}");
        }
    }
}
