//! `q8_0`: 32 signed bytes with one scale.
//!
//! ```text
//! byte  0..2   d    f16
//! byte  2..34  qs   32 × i8      x[j] = d · qs[j]
//! ```
//!
//! Source: `block_q8_0`, `quantize_row_q8_0_ref`. Importance has no effect, because upstream has no scale search for
//! this format.

use super::fit::{Group, symmetric_level, symmetric_starts};
use super::{Block, Encoder, Format, Grid, Part, Scaling, f16_at, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `q8_0`.
pub struct Q8_0;

impl Format for Q8_0 {
    fn name(&self) -> &'static str {
        "q8_0"
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: 34 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<34, 32>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 0);
                for (x, &q) in out.iter_mut().zip(&block[2..]) {
                    *x = f32::from(q as i8) * d;
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Q8_0 {
    fn encode(&self, rows: &[f32], _importance: Option<&[f32]>, dst: &mut [u8]) {
        super::each_block_mut::<34, 32>(
            dst,
            rows,
            #[inline(always)]
            |block, x| {
                let d = max_magnitude(x) / 127.0;
                let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
                put_f16(block, 0, d);
                for (q, &x) in block[2..].iter_mut().zip(x) {
                    *q = search::byte(half_away_from_zero(x * inverse) + 128.0) ^ 0x80;
                }
            },
        );
    }
}

/// Rounds half away from zero, like C's `roundf`, but without a function call.
#[inline(always)]
fn half_away_from_zero(x: f32) -> f32 {
    let even = search::nearest(x);
    let rest = x - even;
    even + if rest == 0.5 && x > 0.0 { 1.0 } else { 0.0 } - if rest == -0.5 && x < 0.0 { 1.0 } else { 0.0 }
}

#[inline(always)]
fn max_magnitude(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0, |largest, x| if x.abs() > largest { x.abs() } else { largest })
}

impl Grid for Q8_0 {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 256, offset: 128 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::Block
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = f16_at(block, 0);
        codes.scales[0] = 1;
        codes.codes.iter_mut().zip(&block[2..]).for_each(|(c, q)| *c = q ^ 0x80);
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        put_f16(block, 0, codes.d);
        block[2..].iter_mut().zip(&codes.codes).for_each(|(q, c)| *q = c ^ 0x80);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        let group = Group::<32>::new(x, importance);
        codes.d = stored_f16(group.scale(&symmetric_starts(128.0), symmetric_level(128.0)));
        codes.scales[0] = 1;
    }
}
