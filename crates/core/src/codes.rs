//! One block opened: integer codes and the stored scales that give them meaning.
//!
//! The value of element `i` in group `g` is `(d · scales[g]) · level(codes[i]) − dmin · mins[g]`, evaluated in
//! `f32` in this order without fused multiply-add: bit for bit what the format's `decode` gives.

use crate::Block;

/// What an integer code stands for before scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Code `c` of `0..count` stands for `c − offset`.
    Linear {
        /// How many codes there are.
        count: u16,
        /// What is subtracted.
        offset: i16,
    },
    /// Code `c` stands for `table[c]`.
    Table(&'static [i8]),
}

impl Levels {
    /// How many codes there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Linear { count, .. } => usize::from(*count),
            Self::Table(table) => table.len(),
        }
    }

    /// The level of `code`. Panics if a table has no such code.
    pub fn level(&self, code: u8) -> f32 {
        match self {
            Self::Linear { offset, .. } => f32::from(i16::from(code) - offset),
            Self::Table(table) => f32::from(table[usize::from(code)]),
        }
    }

    /// The code whose level lies nearest to `x`: of two as near the lower level, of two codes for one level the
    /// lower code; 0 for NaN.
    pub fn nearest(&self, x: f32) -> u8 {
        match *self {
            Self::Linear { count, offset } => {
                // Half-way rounds down, so that the tie rule is the same as for tables. A call of `ceil` would be
                // slower than the rest of it.
                let code = (x + f32::from(offset) - 0.5).clamp(0.0, f32::from(count - 1));
                let below = code as i32;
                (below + i32::from((below as f32) < code)) as u8
            }
            Self::Table(table) => {
                // Levels fit `i8`, and so far outside distances would no longer tell them apart.
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

/// One block of a [`crate::Grid`] format, opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// One code an element, `block.elements` of them.
    pub codes: Vec<u8>,
    /// Stored integer scale of each group; 1 where the format stores none.
    pub scales: Vec<i16>,
    /// Stored integer minimum of each group; 0 where the format stores none.
    pub mins: Vec<i16>,
    /// The block's scale, exactly representable in the stored type.
    pub d: f32,
    /// The block's scale of minima, exactly representable in the stored type; 0 where the format stores none.
    pub dmin: f32,
}

impl Codes {
    /// Room for one block, everything zero.
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

    /// The factor of group `g`'s levels.
    pub fn scale(&self, group: usize) -> f32 {
        self.d * f32::from(self.scales[group])
    }

    /// What is subtracted from every value of group `g`.
    pub fn min(&self, group: usize) -> f32 {
        self.dmin * f32::from(self.mins[group])
    }

    /// The stored value of element `at`.
    pub fn value(&self, levels: &Levels, at: usize) -> f32 {
        let group = at / (self.codes.len() / self.scales.len());
        self.scale(group) * levels.level(self.codes[at]) - self.min(group)
    }
}
