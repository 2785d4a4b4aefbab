//! `iq4_nl`: 32 codes with one scale; a table has the 16 non-uniform levels.
//!
//! ```text
//! byte 0..2   d    f16
//! byte 2..18  qs   code j in the low half of qs[j], code j + 16 in the high half     x[j] = d · level(code)
//! ```
//!
//! Source: `block_iq4_nl`, `dequantize_row_iq4_nl`, `quantize_iq4_nl`. Levels and search are in `iq4`. The weight of
//! the squared error is x², or with importance: importance · sqrt(2 · mean square of the block + x²). Not here: the
//! faster `quantize_row_iq4_nl_ref`, because upstream does not use it to write files.

use super::fit::Group;
use super::lanes::{Lanes, Run, codes_from_lanes, each_run, map_lanes, to_lanes};
use super::{Block, Encoder, Format, Grid, Part, Scaling, f16_at, halves, iq4, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `iq4_nl`.
pub struct Iq4Nl;

impl Format for Iq4Nl {
    fn name(&self) -> &'static str {
        "iq4_nl"
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: 18 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<18, 32>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                let mut codes = [0; 32];
                halves::unpack(&block[2..], &mut codes);
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = d * iq4::VALUES[usize::from(code)];
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Iq4Nl {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let Some(importance) = importance else {
            assert!(rows.len().is_multiple_of(32) && dst.len() == rows.len() / 32 * 18, "whole blocks");
            let runs = rows.chunks(256).zip(dst.chunks_mut(8 * 18));
            for (x, blocks) in runs {
                let transposed = to_lanes(x);
                encode_run(&transposed, &map_lanes(&transposed, |x| x * x), blocks.as_chunks_mut().0);
            }
            return;
        };
        each_run::<18, 32>(
            rows,
            importance,
            dst,
            #[inline(always)]
            |run| {
                let Run { x, importance, blocks, .. } = run;
                let transposed = to_lanes::<32>(x);
                let squares = transposed.iter().fold(Lanes::ZERO, |sum, &x| sum + x * x);
                let spread = squares * Lanes::all(2.0 / 32.0);
                encode_run(&transposed, &search::weights(&transposed, &to_lanes(importance), spread), blocks);
            },
        );
    }
}

/// Encodes up to eight blocks.
fn encode_run(x: &[Lanes; 32], weights: &[Lanes; 32], blocks: &mut [[u8; 18]]) {
    let scales = iq4::scales(x, weights).0;
    // As in upstream, the codes use the scale before it is rounded to f16.
    let inverses = Lanes(scales).map(|scale| if scale != 0.0 { 1.0 / scale } else { 0.0 });
    let codes = codes_from_lanes(map_lanes(x, |x| (inverses * x).map(|x| f32::from(iq4::nearest(x)))));
    for ((block, scale), codes) in blocks.iter_mut().zip(scales).zip(codes) {
        put_f16(block, 0, scale);
        halves::pack(&codes, &mut block[2..]);
    }
}

impl Grid for Iq4Nl {
    fn levels(&self) -> Levels {
        iq4::LEVELS
    }

    fn scaling(&self) -> Scaling {
        Scaling::Block
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = f16_at(block, 0);
        codes.scales[0] = 1;
        halves::unpack(&block[2..], &mut codes.codes);
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        halves::pack(&codes.codes, &mut block[2..]);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        codes.d = stored_f16(iq4::fit(&Group::new(x, importance)));
        codes.scales[0] = 1;
    }
}
