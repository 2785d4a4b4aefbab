//! `mxfp4`: 32 four-bit floating-point codes (E2M1) with one power of two as the scale (E8M0).
//!
//! ```text
//! byte 0      e    E8M0 exponent
//! byte 1..17  qs   code j in the low half of qs[j], code j + 16 in the high half   x[j] = 2^(e − 128) · LEVELS[code]
//! ```
//!
//! The levels are doubled, so that they are integers, and the scale is halved. Source: `block_mxfp4`,
//! `quantize_row_mxfp4_ref`; OCP Microscaling Formats 1.0 §5.2. Importance has no effect, because upstream has no scale
//! search for this format.

use super::fit::{Group, index_of_least};
use super::lanes::Lanes;
use super::{Block, Encoder, Format, Grid, Part, Scaling, array, halves, search};
use crate::{Codes, Levels};

/// `mxfp4`.
pub struct Mxfp4;

/// Twice the value of each E2M1 code. Bit 3 is the sign, so there are two zeros.
pub(super) static LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Format for Mxfp4 {
    fn name(&self) -> &'static str {
        "mxfp4"
    }

    fn block(&self) -> Block {
        Block { elements: 32, group: 32, bytes: 17 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<17, 32>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = scale(block[0]);
                let mut codes = [0; 32];
                halves::unpack(&block[1..], &mut codes);
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = f32::from(LEVELS[usize::from(code)]) * d;
                }
            },
        );
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl Encoder for Mxfp4 {
    fn encode(&self, rows: &[f32], _importance: Option<&[f32]>, dst: &mut [u8]) {
        super::each_block_mut::<17, 32>(
            dst,
            rows,
            #[inline(always)]
            |block, x| {
                let e = exponent(x);
                let d = scale(e);
                block[0] = e;
                halves::pack(&nearest(x, d), &mut block[1..]);
            },
        );
    }
}

/// Returns 2^(e − 128), which is half of the E8M0 value.
fn scale(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        e => f32::from_bits(u32::from(e - 1) << 23),
    }
}

/// Returns the exponent with which the largest magnitude, divided by the E8M0 value, is between 4 and 8.
fn exponent(x: &[f32; 32]) -> u8 {
    let magnitude = search::extreme(x).abs();
    // Just below a power of two, upstream's f32 logarithm rounds up to the integer. This logarithm, rounded to f32,
    // does the same.
    let log = f64::from(magnitude).log2() as f32;
    if magnitude > 0.0 { (log.floor() - 2.0 + 127.0) as u8 } else { 0 }
}

/// The midpoints between the magnitudes of the levels. A midpoint belongs to the lower level.
const MIDPOINTS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// Returns the nearest codes, with the smaller magnitude on a tie. `d` is a power of two, so the scaled midpoints are
/// exact.
fn nearest(x: &[f32; 32], d: f32) -> [u8; 32] {
    let midpoints = MIDPOINTS.map(|m| m * d);
    x.map(|x| {
        let magnitude = midpoints.iter().map(|&m| u8::from(x.abs() > m)).sum::<u8>();
        magnitude | u8::from(x < -midpoints[0]) << 3
    })
}

/// Returns the level nearest to `x` in each lane.
fn level(x: Lanes) -> Lanes {
    const STEPS: [f32; 7] = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0];
    let steps = MIDPOINTS.iter().zip(STEPS);
    let magnitude = steps.fold(Lanes::ZERO, |sum, (&midpoint, step)| {
        sum + x.abs().greater(Lanes::all(midpoint)).select(Lanes::all(step), Lanes::ZERO)
    });
    x.less(Lanes::ZERO).select(-magnitude, magnitude)
}

impl Grid for Mxfp4 {
    fn levels(&self) -> Levels {
        Levels::Table(&LEVELS)
    }

    fn scaling(&self) -> Scaling {
        Scaling::Block
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        codes.d = scale(block[0]);
        codes.scales[0] = 1;
        halves::unpack(&block[1..], &mut codes.codes);
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        // The two smallest scales are subnormal. The exponent field is 0 for both; only the first needs its own case.
        block[0] = match codes.d.to_bits() {
            0x0020_0000 => 0,
            bits => (bits >> 23) as u8 + 1,
        };
        halves::pack(&codes.codes, &mut block[1..]);
    }

    fn fit(&self, x: &[f32], importance: Option<&[f32]>, _part: Part, codes: &mut Codes) {
        let group = Group::<32>::new(x, importance);
        let first = exponent(array(x)).saturating_sub(3);
        let candidates: [u8; 8] = std::array::from_fn(|i| first.saturating_add(i as u8));
        codes.d = scale(candidates[index_of_least(&group.error(Lanes(candidates.map(scale)), level), 3)]);
        codes.scales[0] = 1;
    }

    fn reach(&self) -> f32 {
        // The scale has the exponent range of f32.
        f32::INFINITY
    }

    fn stored(&self, d: f32) -> f32 {
        // Rounds to the nearest power of two. The border between two powers is their arithmetic mean.
        let e = (1..=255).find(|&e| d < 1.5 * scale(e - 1)).map_or(255, |e| e - 1);
        scale(e)
    }
}
