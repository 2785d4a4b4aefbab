//! `q4_1`: 32 4-bit codes under one scale and one minimum.
//!
//! ```text
//! byte 0..2   d    f16
//! byte 2..4   m    f16
//! byte 4..20  qs   code j in the low half of qs[j], code j + 16 in the high half     x[j] = d · code + m
//! ```
//!
//! Source: `block_q4_1`, `quantize_row_q4_1_ref`; with importance `quantize_row_q4_1_impl`, squared error weighted by
//! importance · sqrt(mean square of the row + x²), where m is never above 0. As [`Codes`], `dmin` is `−m` and the
//! group's min 1.

use super::fit::Group;
use super::lanes::{Lanes, Run, each, each_run, gather, scatter};
use super::{Block, Format, Grid, Part, Scaling, array, coded, f16_at, halves, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `q4_1`.
pub struct Q4_1;

impl Format for Q4_1 {
    fn name(&self) -> &'static str {
        "q4_1"
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: 20 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<20, 32>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let (d, m) = (f16_at(block, 0), f16_at(block, 2));
                let codes = open(block);
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = f32::from(code) * d + m;
                }
            },
        );
    }

    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let Some(importance) = importance else {
            return encode_by_range(rows, dst);
        };
        each_run::<20, 32>(
            rows,
            importance,
            dst,
            #[inline(always)]
            |run| {
                let Run { x, importance, blocks, mean_square } = run;
                let turned = gather::<32>(x);
                let spread = Lanes::all(mean_square);
                let weights = search::weights(&turned, &gather(importance), spread);
                let found = search::affine(15.0, &turned, &weights, search::WITH_IMPORTANCE);
                let codes = scatter(each(&turned, |x| found.code(x)));
                let scales = found.scale.0.into_iter().zip(found.least.0);
                for ((block, (scale, least)), codes) in blocks.iter_mut().zip(scales).zip(codes) {
                    put_f16(block, 0, scale);
                    put_f16(block, 2, least);
                    close(&codes, block);
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

/// Without importance the codes span the block's range.
fn encode_by_range(rows: &[f32], dst: &mut [u8]) {
    super::each_block_mut::<20, 32>(
        dst,
        rows,
        #[inline(always)]
        |block, x| {
            let (min, max) = search::range(x);
            let d = (max - min) / 15.0;
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            // Upstream truncates after adding a half, which is not rounding ties to even.
            let codes = coded(
                x,
                #[inline(always)]
                |x| search::truncated((x - min) * inverse + 0.5, 15.0),
            );
            put_f16(block, 0, d);
            put_f16(block, 2, min);
            close(&codes, block);
        },
    );
}

#[inline(always)]
fn open(block: &[u8; 20]) -> [u8; 32] {
    let mut codes = [0; 32];
    halves::unpack(&block[4..], &mut codes);
    codes
}

#[inline(always)]
fn close(codes: &[u8], block: &mut [u8]) {
    halves::pack(codes, &mut block[4..]);
}

impl Grid for Q4_1 {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 16, offset: 0 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::BlockAffine
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        (codes.d, codes.dmin) = (f16_at(block, 0), -f16_at(block, 2));
        (codes.scales[0], codes.mins[0]) = (1, 1);
        codes.codes.copy_from_slice(&open(array(block)));
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        put_f16(block, 2, -codes.dmin);
        close(&codes.codes, block);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        let (scale, least) = Group::<32>::new(x, importance).affine(15.0, true);
        (codes.d, codes.dmin) = (stored_f16(scale), -stored_f16(least));
        (codes.scales[0], codes.mins[0]) = (1, 1);
    }
}
