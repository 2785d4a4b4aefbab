//! One unpacked block: integer codes and the stored scales.
//!
//! The value of element `i` in group `g` is `(d · scales[g]) · level(codes[i]) − dmin · mins[g]`, computed in `f32` in
//! this order without fused multiply-add. It is bit-identical to the result of the format's `decode`.

use crate::Block;

/// The map from integer codes to levels, which are the values before scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Code `c` of `0..count` has the level `c − offset`.
    Linear {
        /// The number of codes.
        count: u16,
        /// The zero point.
        offset: i16,
    },
    /// Code `c` has the level `table[c]`.
    Table(&'static [i8]),
}

impl Levels {
    /// The number of codes.
    pub fn count(&self) -> usize {
        match self {
            Self::Linear { count, .. } => usize::from(*count),
            Self::Table(table) => table.len(),
        }
    }

    /// Returns the level of `code`. Panics if a table has no such code.
    pub fn level(&self, code: u8) -> f32 {
        match self {
            Self::Linear { offset, .. } => f32::from(i16::from(code) - offset),
            Self::Table(table) => f32::from(table[usize::from(code)]),
        }
    }

    /// Returns the code with the level nearest to `x`. On a tie it takes the lower level, and of two codes with the
    /// same level the lower code. Returns 0 for NaN.
    pub fn nearest(&self, x: f32) -> u8 {
        match *self {
            Self::Linear { count, offset } => {
                // A tie rounds down, as for tables. The code computes the ceiling without a call of `ceil`, which
                // would be slower than the rest of this function.
                let code = (x + f32::from(offset) - 0.5).clamp(0.0, f32::from(count - 1));
                let below = code as i32;
                (below + i32::from((below as f32) < code)) as u8
            }
            Self::Table(table) => {
                // Levels fit `i8`. For very large `x`, the rounded distances to all levels would be equal.
                let x = x.clamp(-129.0, 128.0);
                let (mut nearest, mut distance, mut level) = (0, f32::INFINITY, f32::INFINITY);
                for (code, &l) in table.iter().enumerate() {
                    let l = f32::from(l);
                    let d = (x - l).abs();
                    if d < distance || d == distance && l < level {
                        (nearest, distance, level) = (code as u8, d, l);
                    }
                }
                nearest
            }
        }
    }
}

/// One unpacked block of a [`crate::Grid`] format.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// One code per element; the length is `block.elements`.
    pub codes: Vec<u8>,
    /// Stored integer scale of each group; 1 if the format does not store it.
    pub scales: Vec<i16>,
    /// Stored integer minimum of each group; 0 if the format does not store it.
    pub mins: Vec<i16>,
    /// The block's scale, exactly representable in the stored type.
    pub d: f32,
    /// The block's scale of minima, exactly representable in the stored type; 0 if the format does not store it.
    pub dmin: f32,
}

impl Codes {
    /// Creates the codes of one block, with all values zero.
    pub fn new(block: Block) -> Self {
        let groups = block.elements / block.group;
        Self {
            codes: vec![0; block.elements],
            scales: vec![0; groups],
            mins: vec![0; groups],
            d: 0.0,
            dmin: 0.0,
        }
    }

    /// The scale of group `group`: the factor of its levels.
    pub fn scale(&self, group: usize) -> f32 {
        self.d * f32::from(self.scales[group])
    }

    /// The minimum of group `group`, which is subtracted from each scaled level.
    pub fn min(&self, group: usize) -> f32 {
        self.dmin * f32::from(self.mins[group])
    }

    /// The dequantized value of element `index`.
    pub fn value(&self, levels: &Levels, index: usize) -> f32 {
        let group = index / (self.codes.len() / self.scales.len());
        self.scale(group) * levels.level(self.codes[index]) - self.min(group)
    }
}
