//! The scales of `q4_k` and `q5_k`: 6-bit scales and minima of eight groups of 32.
//!
//! ```text
//! byte 0..2   d       f16
//! byte 2..4   dmin    f16
//! byte 4..16  scales  group j < 4: scale in the low 6 bits of byte j, min in the low 6 bits of byte j + 4;
//!                     group j ≥ 4: low 4 bits of both in byte j + 4 (scale low), high 2 bits in the high 2 bits
//!                     of byte j − 4 (scale) and byte j (min)          (bytes counted from the start of `scales`)
//! ```
//!
//! Source: `block_q4_K`, `block_q5_K`, `get_scale_min_k4`.

use super::{f16_at, put_f16};
use crate::Codes;

/// The stored scales of one block.
pub(super) struct Scales {
    /// Scale of the integer scales.
    pub d: f32,
    /// Scale of the integer minima.
    pub dmin: f32,
    /// Integer scale of each group, below 64.
    pub scales: [u8; 8],
    /// Integer minimum of each group, below 64.
    pub mins: [u8; 8],
}

impl Scales {
    /// Reads bytes 0 to 16 of a block.
    pub fn read(block: &[u8]) -> Self {
        let s = &block[4..16];
        let split = |low: u8, high: u8| low | (high >> 6) << 4;
        Self {
            d: f16_at(block, 0),
            dmin: f16_at(block, 2),
            scales: std::array::from_fn(|j| if j < 4 { s[j] & 63 } else { split(s[j + 4] & 15, s[j - 4]) }),
            mins: std::array::from_fn(|j| if j < 4 { s[j + 4] & 63 } else { split(s[j + 4] >> 4, s[j]) }),
        }
    }

    /// Writes bytes 0 to 16 of a block, and rounds `d` and `dmin` to `f16`.
    pub fn write(&mut self, block: &mut [u8]) {
        put_f16(block, 0, self.d);
        put_f16(block, 2, self.dmin);
        (self.d, self.dmin) = (f16_at(block, 0), f16_at(block, 2));
        let s = &mut block[4..16];
        for j in 0..4 {
            s[j] = self.scales[j] & 63 | (self.scales[j + 4] >> 4) << 6;
            s[j + 4] = self.mins[j] & 63 | (self.mins[j + 4] >> 4) << 6;
            s[j + 8] = self.scales[j + 4] & 15 | self.mins[j + 4] << 4;
        }
    }

    /// Returns the scale and the minimum of group `j`: `x = scale · code − minimum`.
    #[inline(always)]
    pub fn group(&self, j: usize) -> (f32, f32) {
        (self.d * f32::from(self.scales[j]), self.dmin * f32::from(self.mins[j]))
    }
}

/// Unpacks bytes 0 to 16 of a block.
pub(super) fn unpack(block: &[u8], codes: &mut Codes) {
    let stored = Scales::read(block);
    (codes.d, codes.dmin) = (stored.d, stored.dmin);
    codes.scales.iter_mut().zip(stored.scales).for_each(|(s, stored)| *s = stored.into());
    codes.mins.iter_mut().zip(stored.mins).for_each(|(m, stored)| *m = stored.into());
}

/// Packs bytes 0 to 16 of a block.
pub(super) fn pack(codes: &Codes, block: &mut [u8]) {
    Scales {
        d: codes.d,
        dmin: codes.dmin,
        scales: std::array::from_fn(|j| codes.scales[j] as u8),
        mins: std::array::from_fn(|j| codes.mins[j] as u8),
    }
    .write(block);
}
