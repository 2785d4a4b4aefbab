//! `iq4_nl`: 32 codes of a table of 16 uneven levels, under one scale.
//!
//! ```text
//! byte 0..2   d    f16
//! byte 2..18  qs   code j in the low half of qs[j], code j + 16 in the high half     x[j] = d · LEVELS[code]
//! ```
//!
//! Source: `block_iq4_nl`, `quantize_row_iq4_nl_impl`, `kvalues_iq4nl`.

use super::{Block, Format, Grid, Part, array, f16_at, halves, put_f16, search, stored_f16};
use crate::{Codes, Levels};

/// `iq4_nl`.
pub struct Iq4Nl;

/// The levels, ascending; `iq4_xs` shares them.
pub(super) static LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Format for Iq4Nl {
    fn name(&self) -> &'static str {
        "iq4_nl"
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: 18 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        for (block, out) in super::blocks::<18, 32>(src, dst) {
            let d = f16_at(block, 0);
            let mut codes = [0; 32];
            halves::unpack(&block[2..], &mut codes);
            for (x, code) in out.iter_mut().zip(codes) {
                *x = d * f32::from(LEVELS[usize::from(code)]);
            }
        }
    }

    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        for (index, (block, x)) in super::blocks_mut::<18, 32>(dst, rows).enumerate() {
            let d = scale(x, super::importance_at(importance, index * 32, 32));
            put_f16(block, 0, d);
            halves::pack(&codes(x, d), &mut block[2..]);
        }
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

fn scale(x: &[f32; 32], importance: Option<&[f32]>) -> f32 {
    let weights = search::weights(x, importance, 2.0 * search::mean_square(x), |x| x * x);
    search::table(&LEVELS, x, &weights)
}

/// The nearest codes under the scale as found (upstream does not round against the stored one here).
fn codes(x: &[f32; 32], d: f32) -> [u8; 32] {
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    std::array::from_fn(|j| search::nearest_in(&LEVELS, inverse * x[j]))
}

impl Grid for Iq4Nl {
    fn levels(&self) -> Levels {
        Levels::Table(&LEVELS)
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
        codes.d = stored_f16(scale(array(x), importance));
        codes.scales[0] = 1;
    }
}
