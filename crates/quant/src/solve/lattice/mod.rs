//! Carries weights over unchanged that already lie on a quantization lattice.
//!
//! A float checkpoint may contain only integers times scales: it was trained with quantization (QAT), or it was
//! quantized by GPTQ, AWQ or llama.cpp and then dequantized. A search for scales would change such weights again.
//! [`Lattice`] checks one block of the target format at a time. The extreme is the value of largest magnitude:
//!
//! ```text
//! for each level that the extreme may have:               (affine formats: each number of steps in the value range)
//!     step ← extreme / level
//!     next unless every x / step is a level, within the tolerance of rounding to the checkpoint's type
//!     for each storable scale that gives the extreme:     (affine formats: scale and minimum)
//!         accept if every decoded value, rounded to the checkpoint's type, is x
//! ```
//!
//! Invariant: a block is accepted only if each of its values, decoded and rounded to the checkpoint's type, equals the
//! original (+0 equals −0). One exception: an `f32` block with at least three levels may lie on a lattice whose scale
//! is not an `f16` value. It is accepted if no value changes by more than half an `f16` step at that value. An `f32`
//! block that contains only `f16` values may come from an `f16` checkpoint, so it is also checked as an `f16` block.
//!
//! If a block has several exact representations (it has no extreme code, its codes have a common divisor, or both signs
//! are possible), the largest codes are chosen, and then the positive scale.
//!
//! Not here: negative scales of `q4_1` and `q5_1`, which no encoder writes; `bf16` values that are stored as `f32`
//! (they should be read as `bf16`); some affine blocks so far from zero that the steps of the checkpoint's type are as
//! long as the lattice's; superblocks whose scales are not multiples of one `f16` value, which includes most
//! superblocks from other formats.

mod affine;
mod exactness;
mod scaled;
mod span;
mod superblock;

use exactness::Judge;
use half::f16;
use kvant_core::{Codes, FormatRef, Grid, Levels};
use scaled::LevelTable;

/// Carries blocks of a float tensor over to one format.
pub struct Lattice {
    format: FormatRef,
    grid: &'static dyn Grid,
    judge: Judge,
    kind: Kind,
}

enum Kind {
    /// One scale for each block.
    Scaled(LevelTable),
    /// One scale and one minimum for each block; codes from 0 to `last`.
    Affine { last: u8 },
    /// Integer scales of groups, times the block's scale. `scales` holds the lowest and the highest integer.
    SuperScaled { table: LevelTable, scales: (i16, i16) },
    /// Integer scales and minima of groups, from 0 to 63, times the block's scale and its scale of minima.
    SuperAffine { last: u8 },
}

impl Lattice {
    /// Makes a lattice for tensors of format `from` that are to be stored in `format`. Returns `None` if `from` is not
    /// `f32`, `f16` or `bf16`, or if `format` has no codes.
    pub fn new(from: FormatRef, format: FormatRef) -> Option<Self> {
        let (judge, grid) = (Judge::of(from)?, format.grid()?);
        let (levels, block) = (grid.levels(), format.block());
        let affine = matches!(levels, Levels::Linear { offset: 0, .. });
        let last = (levels.count() - 1) as u8;
        let kind = match (affine, block.group == block.elements) {
            (false, true) => Kind::Scaled(LevelTable::new(&levels)),
            (true, true) => Kind::Affine { last },
            (false, false) => {
                let scales = if block.group == 16 { (-128, 127) } else { (-32, 31) };
                Kind::SuperScaled { table: LevelTable::new(&levels), scales }
            }
            (true, false) => Kind::SuperAffine { last },
        };
        Some(Self { format, grid, judge, kind })
    }

    /// Writes every block of `rows` that can be carried over, and returns for each block whether it was. `rows` holds
    /// whole rows. The bytes of other blocks stay unchanged. Panics if `dst` does not have exactly the rows' bytes.
    pub fn transplant(&self, rows: &[f32], dst: &mut [u8]) -> Vec<bool> {
        let block = self.format.block();
        assert_eq!(
            rows.len() / block.elements * block.bytes,
            dst.len(),
            "rows and bytes are the same blocks"
        );
        let blocks = rows.chunks_exact(block.elements).zip(dst.chunks_exact_mut(block.bytes));
        blocks.map(|(x, block)| self.transplant_block(x, block)).collect()
    }

    /// Writes the block with the values `x` and returns true, or leaves it unchanged and returns false. Panics unless
    /// `x` and `block` are one block of the format.
    pub fn transplant_block(&self, x: &[f32], block: &mut [u8]) -> bool {
        let size = self.format.block();
        assert!(x.len() == size.elements && block.len() == size.bytes, "one block");
        let largest = x.iter().fold(0, |largest, x| (x.to_bits() & !SIGN).max(largest));
        if largest == 0 {
            self.format.encode(x, None, block);
            return true;
        }
        if !(SMALLEST..f32::MAX.to_bits()).contains(&largest) {
            return false;
        }
        let solved = match self.judge {
            Judge::F32 if all_f16(x) => self.solve(x, Judge::F32).or_else(|| self.solve(x, Judge::F16)),
            Judge::F32 if !self.may_fit(x) => None,
            Judge::F32 => self.solve(x, Judge::F32).or_else(|| self.solve(x, Judge::Near)),
            judge => self.solve(x, judge),
        };
        if let Some(codes) = &solved {
            self.grid.pack(codes, block);
        }
        solved.is_some()
    }

    /// Returns whether an `f32` block may lie on a lattice. This quick check rejects most blocks.
    fn may_fit(&self, x: &[f32]) -> bool {
        match &self.kind {
            Kind::Scaled(table) => table.fits(x, scaled::ends(x), Judge::F32).next().is_some(),
            &Kind::Affine { last } => affine::may_fit(x, last),
            Kind::SuperScaled { .. } | Kind::SuperAffine { .. } => true,
        }
    }

    fn solve(&self, x: &[f32], judge: Judge) -> Option<Codes> {
        let block = self.format.block();
        match &self.kind {
            Kind::Scaled(table) => {
                let mut found = Codes::new(block);
                found.d = table.solve(x, judge, self.grid, &mut found.codes)?;
                found.scales[0] = 1;
                Some(found)
            }
            &Kind::Affine { last } => {
                let mut found = Codes::new(block);
                let (d, m) = affine::solve(x, last, judge, &mut found.codes)?;
                (found.d, found.dmin) = (d, -m);
                (found.scales[0], found.mins[0]) = (1, 1);
                Some(found)
            }
            Kind::SuperScaled { table, scales } => superblock::scaled(x, table, *scales, judge, block),
            &Kind::SuperAffine { last } => superblock::affine(x, last, judge, block),
        }
    }
}

const SIGN: u32 = 1 << 31;

/// The smallest magnitude of an extreme, 2⁻¹²⁰. Below it, a step would lose precision.
const SMALLEST: u32 = 7 << 23;

fn all_f16(x: &[f32]) -> bool {
    // A normal `f16` value leaves thirteen bits of the `f32` significand zero. This check rejects almost all other
    // blocks.
    let bits = x.iter().fold(0, |bits, x| bits | x.to_bits());
    bits & 0x1fff == 0 && x.iter().all(|&x| f16::from_f32(x).to_f32() == x)
}
