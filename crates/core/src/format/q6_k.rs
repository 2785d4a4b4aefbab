//! `q6_k`: 256 six-bit codes in sixteen groups of 16 with signed 8-bit scales.
//!
//! ```text
//! byte 0..128    ql      low 4 bits; for each 128 codes 64 bytes: code j and code j + 64 share byte j (j < 64)
//! byte 128..192  qh      high 2 bits; for each 128 codes 32 bytes: byte j holds those of j, j + 32, j + 64, j + 96
//! byte 192..208  scales  16 × i8
//! byte 208..210  d       f16                                              x = d · scale · (code − 32)
//! ```
//!
//! Source: `block_q6_K`, `quantize_row_q6_K_ref` (the weight of the squared error is x²), `quantize_row_q6_K_impl` (the
//! weight is the importance, unchanged).

use super::fit::{Group, symmetric_level, symmetric_starts};
use super::lanes::{codes_from_lanes, map_lanes, to_lanes};
use super::{Block, Encoder, Format, Grid, Part, Scaling, array, f16_at, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `q6_k`.
pub struct Q6K;

impl Format for Q6K {
    fn name(&self) -> &'static str {
        "q6_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 16, bytes: 210 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<210, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 208);
                let codes = unpack_codes(block);
                for ((out, codes), &scale) in out
                    .as_chunks_mut::<16>()
                    .0
                    .iter_mut()
                    .zip(codes.as_chunks::<16>().0)
                    .zip(&block[192..208])
                {
                    let scale = d * f32::from(scale as i8);
                    for (x, &code) in out.iter_mut().zip(codes) {
                        *x = scale * f32::from(code as i8 - 32);
                    }
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Q6K {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        super::each_weighted_block::<210, 256>(
            dst,
            rows,
            importance,
            #[inline(always)]
            |block, x, importance| encode_block(x, importance, block),
        );
    }
}

#[inline(always)]
fn encode_block(x: &[f32; 256], importance: Option<&[f32]>, block: &mut [u8; 210]) {
    block.fill(0);
    let mut scales = [0.0; 16];
    let mut codes = [0u8; 256];
    for (half, x) in x.as_chunks::<128>().0.iter().enumerate() {
        let transposed = to_lanes::<16>(x);
        let weights = match importance {
            Some(importance) => to_lanes(&importance[128 * half..][..128]),
            None => map_lanes(
                &transposed,
                #[inline(always)]
                |x| x * x,
            ),
        };
        let found = search::symmetric(32.0, &transposed, &weights);
        scales[8 * half..][..8].copy_from_slice(&found.scale.0);
        // A group whose stored scale is zero keeps the codes of the search.
        let as_searched = codes_from_lanes(map_lanes(
            &transposed,
            #[inline(always)]
            |x| found.code(x),
        ));
        codes[128 * half..][..128].copy_from_slice(as_searched.as_flattened());
    }
    let largest = search::extreme(&scales);
    if largest.abs() < search::ZERO_GROUP {
        return;
    }
    let inverse = -128.0 / largest;
    put_f16(block, 208, 1.0 / inverse);
    let d = f16_at(block, 208);
    let groups = codes.as_chunks_mut::<16>().0.iter_mut().zip(x.as_chunks::<16>().0);
    for ((stored, scale), (codes, x)) in block[192..208].iter_mut().zip(scales).zip(groups) {
        let integer = search::nearest(inverse * scale).clamp(-128.0, 127.0) as i8;
        *stored = integer as u8;
        let scale = d * f32::from(integer);
        if scale != 0.0 {
            for (code, &x) in codes.iter_mut().zip(x) {
                *code = search::byte(search::nearest(x / scale).clamp(-32.0, 31.0) + 32.0);
            }
        }
    }
    pack_codes(&codes, block);
}

#[inline(always)]
fn unpack_codes(block: &[u8]) -> [u8; 256] {
    let mut codes = [0; 256];
    for (half, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let low: &[u8; 64] = array(&block[64 * half..][..64]);
        let high: &[u8; 32] = array(&block[128 + 32 * half..][..32]);
        for j in 0..32 {
            codes[j] = (low[j] & 15) | (high[j] & 3) << 4;
            codes[j + 32] = (low[j + 32] & 15) | (high[j] >> 2 & 3) << 4;
            codes[j + 64] = (low[j] >> 4) | (high[j] >> 4 & 3) << 4;
            codes[j + 96] = (low[j + 32] >> 4) | (high[j] >> 6) << 4;
        }
    }
    codes
}

#[inline(always)]
fn pack_codes(codes: &[u8], block: &mut [u8]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for j in 0..64 {
            block[64 * half + j] = (codes[j] & 15) | (codes[j + 64] & 15) << 4;
        }
        for j in 0..32 {
            block[128 + 32 * half + j] = codes[j] >> 4
                | (codes[j + 32] >> 4) << 2
                | (codes[j + 64] >> 4) << 4
                | (codes[j + 96] >> 4) << 6;
        }
    }
}

impl Grid for Q6K {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 64, offset: 32 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::Groups { low: -128, high: 127 }
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = f16_at(block, 208);
        codes.scales.iter_mut().zip(&block[192..208]).for_each(|(s, b)| *s = i16::from(*b as i8));
        codes.codes.copy_from_slice(&unpack_codes(block));
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        pack_codes(&codes.codes, block);
        block[192..208].iter_mut().zip(&codes.scales).for_each(|(b, s)| *b = *s as i8 as u8);
        put_f16(block, 208, codes.d);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes) {
        let level = symmetric_level(32.0);
        let starts = symmetric_starts(32.0);
        match part {
            Part::Block => {
                let mut scales = [0.0; 16];
                for (scale, group) in scales.iter_mut().zip(Group::<16>::all(x, importance)) {
                    *scale = group.scale(&starts, &level);
                }
                // The scale of largest magnitude becomes −128, because the integers reach from −128 to 127.
                codes.d = stored_f16(search::extreme(&scales) / -128.0);
            }
            Part::Group(j) => {
                let group = Group::<16>::new(x, importance);
                codes.scales[j] =
                    group.stored_scale(group.scale(&starts, &level), codes.d, -128, 127, &level);
            }
        }
    }
}
