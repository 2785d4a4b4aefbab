//! `q5_k`: 256 five-bit codes in eight groups of 32 under 6-bit scales and minima.
//!
//! ```text
//! byte 0..16    d, dmin, scales (see `k_scales`)
//! byte 16..48   qh   bit g of byte j is the fifth bit of code j of group g
//! byte 48..176  qs   for each 64 codes 32 bytes: code j low, code j + 32 high   x = d·scale·code − dmin·min
//! ```
//!
//! Source: `block_q5_K`, `quantize_row_q5_K_ref`.

use super::search::Ladder;
use super::{Block, Format, Grid, Part, array, f16_at, k_scales};
use crate::{Codes, Levels};

/// `q5_k`.
pub struct Q5K;

const LADDER: Ladder = Ladder { first: -0.5, step: 0.1, count: 15 };

impl Format for Q5K {
    fn name(&self) -> &'static str {
        "q5_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 176 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        for (block, out) in super::blocks::<176, 256>(src, dst) {
            let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
            let fifth: &[u8; 32] = array(&block[16..48]);
            for ((group, out), (scale, min)) in
                out.as_chunks_mut::<32>().0.iter_mut().enumerate().zip(k_scales::unpack(block))
            {
                let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                let low: &[u8; 32] = array(&block[48 + group / 2 * 32..][..32]);
                for ((x, low), fifth) in out.iter_mut().zip(low).zip(fifth) {
                    let code = (low >> (4 * (group % 2)) & 15) | (fifth >> group & 1) << 4;
                    *x = scale * f32::from(code) - min;
                }
            }
        }
    }

    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        for (index, (block, x)) in super::blocks_mut::<176, 256>(dst, rows).enumerate() {
            let importance = super::importance_at(importance, index * 256, 256);
            let codes = k_scales::encode(31, x, importance, LADDER, block);
            close(&codes, block);
        }
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

fn close(codes: &[u8], block: &mut [u8]) {
    block[16..48].fill(0);
    for (group, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        let (fifth, low) = block[16..].split_at_mut(32);
        for ((code, fifth), low) in codes.iter().zip(fifth).zip(&mut low[group / 2 * 32..]) {
            *fifth |= (code >> 4) << group;
            *low = if group % 2 == 0 { code & 15 } else { *low | (code & 15) << 4 };
        }
    }
}

impl Grid for Q5K {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 32, offset: 0 }
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        k_scales::open(block, codes);
        for (group, codes) in codes.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = &block[48 + group / 2 * 32..];
            for ((code, low), fifth) in codes.iter_mut().zip(low).zip(&block[16..48]) {
                *code = (low >> (4 * (group % 2)) & 15) | (fifth >> group & 1) << 4;
            }
        }
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        k_scales::close(codes, block);
        close(&codes.codes, block);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes) {
        k_scales::fit(31, x, importance, part, LADDER, codes);
    }
}
