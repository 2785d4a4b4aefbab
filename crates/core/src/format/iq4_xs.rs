//! `iq4_xs`: 256 codes with the levels of `iq4_nl`, in eight groups of 32 with signed 6-bit scales.
//!
//! ```text
//! byte 0..2    d         f16
//! byte 2..4    scales_h  u16, bits 2g..2g+2 are the high 2 bits of group g's scale
//! byte 4..8    scales_l  low 4 bits: group 2i in the low half of byte i, group 2i + 1 in the high half
//! byte 8..136  qs        16 bytes per group: code j low, code j + 16 high   x = d · (scale − 32) · level(code)
//! ```
//!
//! Source: `block_iq4_xs`, `dequantize_row_iq4_xs`, `quantize_iq4_xs`. Levels and search are in `iq4`. The weight of
//! the squared error is x², or with importance: importance · sqrt(2 · mean square of the block + x²).

use super::fit::Group;
use super::lanes::{Lanes, map_lanes, to_lanes};
use super::{Block, Encoder, Format, Grid, Part, Scaling, f16_at, halves, iq4, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `iq4_xs`.
pub struct Iq4Xs;

impl Format for Iq4Xs {
    fn name(&self) -> &'static str {
        "iq4_xs"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 32, bytes: 136 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<136, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let scale = d * f32::from(scale_at(block, group));
                    let mut codes = [0; 32];
                    halves::unpack(&block[8 + 16 * group..], &mut codes);
                    for (x, code) in out.iter_mut().zip(codes) {
                        *x = scale * iq4::VALUES[usize::from(code)];
                    }
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Iq4Xs {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        for (index, (block, x)) in super::blocks_mut::<136, 256>(dst, rows).enumerate() {
            encode_block(x, super::importance_at(importance, index * 256, 256), block);
        }
    }
}

fn scale_at(block: &[u8], group: usize) -> i16 {
    let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * group) & 3;
    let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
    i16::from(low) + (high as i16) * 16 - 32
}

fn put_scales(scales: impl Iterator<Item = i16>, block: &mut [u8]) {
    block[2..8].fill(0);
    let mut high = 0u16;
    for (group, scale) in scales.enumerate() {
        let scale = (scale + 32) as u16 & 63;
        block[4 + group / 2] |= (scale as u8 & 15) << (4 * (group % 2));
        high |= (scale >> 4) << (2 * group);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
}

fn encode_block(x: &[f32; 256], importance: Option<&[f32]>, block: &mut [u8; 136]) {
    let transposed = to_lanes::<32>(x);
    let weights = match importance {
        None => map_lanes(&transposed, |x| x * x),
        Some(importance) => {
            let spread = Lanes::all(search::sum_of_squares(x) * (2.0 / 256.0));
            search::weights(&transposed, &to_lanes(importance), spread)
        }
    };
    let scales = iq4::scales(&transposed, &weights).0;
    // As in upstream, the codes use `d` before it is rounded to f16.
    let d = -search::extreme(&scales) / 32.0;
    put_f16(block, 0, d);
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let stored = scales.map(|scale| search::nearest(inverse * scale).clamp(-32.0, 31.0) as i16);
    put_scales(stored.into_iter(), block);
    for (j, (scale, x)) in stored.into_iter().zip(x.as_chunks::<32>().0).enumerate() {
        let scale = d * f32::from(scale);
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        halves::pack(&x.map(|x| iq4::nearest(inverse * x)), &mut block[8 + 16 * j..]);
    }
}

impl Grid for Iq4Xs {
    fn levels(&self) -> Levels {
        iq4::LEVELS
    }

    fn scaling(&self) -> Scaling {
        Scaling::Groups { low: -32, high: 31 }
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = f16_at(block, 0);
        for group in 0..8 {
            codes.scales[group] = scale_at(block, group);
            halves::unpack(&block[8 + 16 * group..], &mut codes.codes[32 * group..]);
        }
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        put_scales(codes.scales.iter().copied(), block);
        for group in 0..8 {
            halves::pack(&codes.codes[32 * group..], &mut block[8 + 16 * group..]);
        }
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes) {
        match part {
            Part::Block => {
                let mut scales = [0.0; 8];
                for (scale, group) in scales.iter_mut().zip(Group::all(x, importance)) {
                    *scale = iq4::fit(&group);
                }
                // The scale of largest magnitude becomes −32, because the integers reach from −32 to 31.
                codes.d = stored_f16(search::extreme(&scales) / -32.0);
            }
            Part::Group(j) => {
                let group = Group::new(x, importance);
                codes.scales[j] = group.stored_scale(iq4::fit(&group), codes.d, -32, 31, iq4::level);
            }
        }
    }
}
