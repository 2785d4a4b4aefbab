//! `q5_0`: 32 5-bit codes under one scale, levels −16 to 15.
//!
//! ```text
//! byte 0..2   d    f16
//! byte 2..6   qh   u32, bit j is the fifth bit of code j
//! byte 6..22  qs   code j in the low half of qs[j], code j + 16 in the high half     x[j] = d · (code − 16)
//! ```
//!
//! Source: `block_q5_0`, `quantize_row_q5_0_ref`; with importance `quantize_row_q5_0_impl`, squared error weighted by
//! importance · sqrt(mean square of the row + x²).

use super::fit::{Group, symmetric_level, symmetric_starts};
use super::lanes::{Lanes, Run, each, each_run, gather, scatter};
use super::{Block, Format, Grid, Part, Scaling, array, coded, f16_at, halves, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `q5_0`.
pub struct Q5_0;

impl Format for Q5_0 {
    fn name(&self) -> &'static str {
        "q5_0"
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: 22 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<22, 32>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let codes = open(block);
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = f32::from(code as i8 - 16) * d;
                }
            },
        );
    }

    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let Some(importance) = importance else {
            return encode_by_extreme(rows, dst);
        };
        each_run::<22, 32>(
            rows,
            importance,
            dst,
            #[inline(always)]
            |run| {
                let Run { x, importance, blocks, mean_square } = run;
                let turned = gather::<32>(x);
                let spread = Lanes::all(mean_square);
                let weights = search::weights(&turned, &gather(importance), spread);
                let found = search::symmetric(16.0, &turned, &weights);
                let codes = scatter(each(&turned, |x| found.code(x)));
                for ((block, scale), codes) in blocks.iter_mut().zip(found.scale.0).zip(codes) {
                    put_f16(block, 0, scale);
                    close(&codes, block);
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

/// Without importance the extreme becomes −16.
fn encode_by_extreme(rows: &[f32], dst: &mut [u8]) {
    super::each_block_mut::<22, 32>(
        dst,
        rows,
        #[inline(always)]
        |block, x| {
            let d = search::extreme(x) / -16.0;
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            // Upstream truncates after adding a half, which is not rounding ties to even.
            let codes = coded(
                x,
                #[inline(always)]
                |x| search::truncated(x * inverse + 16.5, 31.0),
            );
            put_f16(block, 0, d);
            close(&codes, block);
        },
    );
}

#[inline(always)]
fn open(block: &[u8; 22]) -> [u8; 32] {
    let mut codes = [0; 32];
    halves::unpack(&block[6..], &mut codes);
    halves::unpack_fifth(*array(&block[2..6]), &mut codes);
    codes
}

#[inline(always)]
fn close(codes: &[u8], block: &mut [u8]) {
    halves::pack(codes, &mut block[6..]);
    block[2..6].copy_from_slice(&halves::pack_fifth(codes));
}

impl Grid for Q5_0 {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 32, offset: 16 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::Block
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = f16_at(block, 0);
        codes.scales[0] = 1;
        codes.codes.copy_from_slice(&open(array(block)));
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        close(&codes.codes, block);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        let group = Group::<32>::new(x, importance);
        codes.d = stored_f16(group.scale(&symmetric_starts(16.0), symmetric_level(16.0)));
        codes.scales[0] = 1;
    }
}
