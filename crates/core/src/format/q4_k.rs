//! `q4_k`: 256 four-bit codes in eight groups of 32 under 6-bit scales and minima.
//!
//! ```text
//! byte 0..16    d, dmin, scales (see `k_scales`)
//! byte 16..144  qs   for each 64 codes 32 bytes: code j low, code j + 32 high   x = d·scale·code − dmin·min
//! ```
//!
//! Source: `block_q4_K`, `quantize_row_q4_K_ref`.

use super::search::Ladder;
use super::{Block, Format, Grid, Part, f16_at, k_scales};
use crate::{Codes, Levels};

/// `q4_k`.
pub struct Q4K;

const LADDER: Ladder = Ladder { first: -1.0, step: 0.1, count: 20 };

impl Format for Q4K {
    fn name(&self) -> &'static str {
        "q4_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 144 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        for (block, out) in super::blocks::<144, 256>(src, dst) {
            let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
            let groups = k_scales::unpack(block);
            for (pair, (out, bytes)) in
                out.as_chunks_mut::<64>().0.iter_mut().zip(block[16..].as_chunks::<32>().0).enumerate()
            {
                for (half, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let (scale, min) = groups[2 * pair + half];
                    let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                    for (x, byte) in out.iter_mut().zip(bytes) {
                        *x = scale * f32::from(byte >> (4 * half) & 15) - min;
                    }
                }
            }
        }
    }

    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        for (index, (block, x)) in super::blocks_mut::<144, 256>(dst, rows).enumerate() {
            let importance = super::importance_at(importance, index * 256, 256);
            let codes = k_scales::encode(15, x, importance, LADDER, block);
            close(&codes, block);
        }
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

fn close(codes: &[u8], block: &mut [u8]) {
    for (bytes, codes) in block[16..].as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for (j, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[j] | codes[j + 32] << 4;
        }
    }
}

impl Grid for Q4K {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 16, offset: 0 }
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        k_scales::open(block, codes);
        for (bytes, codes) in block[16..].as_chunks::<32>().0.iter().zip(codes.codes.as_chunks_mut::<64>().0)
        {
            for (j, byte) in bytes.iter().enumerate() {
                (codes[j], codes[j + 32]) = (byte & 15, byte >> 4);
            }
        }
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        k_scales::close(codes, block);
        close(&codes.codes, block);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes) {
        k_scales::fit(15, x, importance, part, LADDER, codes);
    }
}
