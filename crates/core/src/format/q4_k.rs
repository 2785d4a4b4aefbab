//! `q4_k`: 256 four-bit codes in eight groups of 32, with 6-bit scales and minima.
//!
//! ```text
//! byte 0..16    d, dmin, scales (see `k_scales`)
//! byte 16..144  qs   for each 64 codes 32 bytes: code j low, code j + 32 high   x = d·scale·code − dmin·min
//! ```
//!
//! Source: `block_q4_K`, `dequantize_row_q4_K`. `k_affine` has the encoder.

use super::k_affine::KAffine;
use super::k_scales::{self, Scales};
use super::search::StartingScales;
use super::{Block, Encoder, Format, Grid, Part, Scaling};
use crate::{Codes, Levels};

/// `q4_k`.
pub struct Q4K;

const ENCODER: KAffine =
    KAffine { levels: 15.0, starts: StartingScales { first: -1.0, step: 0.1, last: 20 } };

impl Format for Q4K {
    fn name(&self) -> &'static str {
        "q4_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 144 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<144, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let scales = Scales::read(block);
                let bytes = block[16..].as_chunks::<32>().0;
                for ((pair, out), bytes) in out.as_chunks_mut::<64>().0.iter_mut().enumerate().zip(bytes) {
                    let (low, high) = out.split_at_mut(32);
                    let (scale, min) = scales.group(2 * pair);
                    for (x, byte) in low.iter_mut().zip(bytes) {
                        *x = scale * f32::from(byte & 15) - min;
                    }
                    let (scale, min) = scales.group(2 * pair + 1);
                    for (x, byte) in high.iter_mut().zip(bytes) {
                        *x = scale * f32::from(byte >> 4) - min;
                    }
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Q4K {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        ENCODER.encode::<144>(rows, importance, dst, |codes, block| pack_codes(codes, block));
    }
}

/// Writes `qs`.
fn pack_codes(codes: &[u8], block: &mut [u8]) {
    for (bytes, codes) in block[16..].as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for (j, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[j] & 15 | codes[j + 32] << 4;
        }
    }
}

impl Grid for Q4K {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 16, offset: 0 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::GroupsAffine { high: 63 }
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        k_scales::unpack(block, codes);
        for (bytes, codes) in block[16..].as_chunks::<32>().0.iter().zip(codes.codes.as_chunks_mut::<64>().0)
        {
            for (j, byte) in bytes.iter().enumerate() {
                (codes[j], codes[j + 32]) = (byte & 15, byte >> 4);
            }
        }
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        k_scales::pack(codes, block);
        pack_codes(&codes.codes, block);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes) {
        ENCODER.fit(x, importance, part, codes);
    }
}
