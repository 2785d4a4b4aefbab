//! Plain floating point: `f32`, `f16` and `bf16`, little endian, one number a block.
//!
//! Encoding rounds to nearest, ties to even; a number beyond `f16`'s range becomes infinity, as in upstream.

use super::{Block, Format, Grid};
use half::{bf16, f16};

/// IEEE 754 binary32.
pub struct Float32;
/// IEEE 754 binary16.
pub struct Float16;
/// bfloat16: the upper half of binary32.
pub struct BFloat16;

/// The format `f32`.
pub static F32: Float32 = Float32;
/// The format `f16`.
pub static F16: Float16 = Float16;
/// The format `bf16`.
pub static BF16: BFloat16 = BFloat16;

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
                for (x, bytes) in dst.iter_mut().zip(src.as_chunks::<$bytes>().0) {
                    *x = $decode(*bytes);
                }
            }

            fn encode(&self, rows: &[f32], _importance: Option<&[f32]>, dst: &mut [u8]) {
                assert_eq!(dst.len(), rows.len() * $bytes);
                for (bytes, &x) in dst.as_chunks_mut::<$bytes>().0.iter_mut().zip(rows) {
                    *bytes = $encode(x);
                }
            }

            fn grid(&self) -> Option<&dyn Grid> {
                None
            }
        }
    };
}

float_format!(Float32, "f32", 4, f32::from_le_bytes, f32::to_le_bytes);
float_format!(Float16, "f16", 2, |b| f16::from_le_bytes(b).to_f32(), |x| f16::from_f32(x).to_le_bytes());
float_format!(BFloat16, "bf16", 2, |b| bf16::from_le_bytes(b).to_f32(), |x| bf16::from_f32(x).to_le_bytes());
