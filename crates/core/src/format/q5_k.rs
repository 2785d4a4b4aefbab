//! `q5_k`: 256 five-bit codes in eight groups of 32, with 6-bit scales and minima.
//!
//! ```text
//! byte 0..16    d, dmin, scales (see `k_scales`)
//! byte 16..48   qh   bit g of byte j is the fifth bit of code j of group g
//! byte 48..176  qs   for each 64 codes 32 bytes: code j low, code j + 32 high   x = d·scale·code − dmin·min
//! ```
//!
//! Source: `block_q5_K`, `dequantize_row_q5_K`. `k_affine` has the encoder.

use super::k_affine::KAffine;
use super::k_scales::{self, Scales};
use super::search::StartingScales;
use super::{Block, Encoder, Format, Grid, Part, Scaling, array};
use crate::{Codes, Levels};

/// `q5_k`.
pub struct Q5K;

const ENCODER: KAffine =
    KAffine { levels: 31.0, starts: StartingScales { first: -0.5, step: 0.1, last: 15 } };

impl Format for Q5K {
    fn name(&self) -> &'static str {
        "q5_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 176 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<176, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let scales = Scales::read(block);
                for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let (scale, min) = scales.group(group);
                    for (x, code) in out.iter_mut().zip(unpack_group(block, group)) {
                        *x = scale * f32::from(code) - min;
                    }
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Q5K {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        ENCODER.encode::<176>(rows, importance, dst, |codes, block| pack_codes(codes, block));
    }
}

#[inline(always)]
fn unpack_group(block: &[u8], group: usize) -> [u8; 32] {
    let fifth: &[u8; 32] = array(&block[16..48]);
    let low: &[u8; 32] = array(&block[48 + group / 2 * 32..][..32]);
    std::array::from_fn(|j| (low[j] >> (4 * (group % 2)) & 15) | (fifth[j] >> group & 1) << 4)
}

/// Writes `qh` and `qs`.
fn pack_codes(codes: &[u8], block: &mut [u8]) {
    block[16..48].fill(0);
    for (group, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        let (fifth, low) = block[16..].split_at_mut(32);
        for ((code, fifth), low) in codes.iter().zip(fifth).zip(&mut low[group / 2 * 32..]) {
            *fifth |= (code >> 4 & 1) << group;
            *low = if group % 2 == 0 { code & 15 } else { *low | code << 4 };
        }
    }
}

impl Grid for Q5K {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 32, offset: 0 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::GroupsAffine { high: 63 }
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        k_scales::unpack(block, codes);
        for (group, codes) in codes.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            *codes = unpack_group(block, group);
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
