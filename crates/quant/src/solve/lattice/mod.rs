//! Carries weights over unchanged if they are already on a quantization lattice.
//!
//! A lattice is the set of values that a block of a format can store under given scales. The weights of a float
//! checkpoint may be on a lattice, because the model was trained with quantization (QAT), or because GPTQ, AWQ or
//! llama.cpp quantized the model and a tool dequantized it. A search for scales would change such weights again.
//! [`Lattice`] checks one block of the target format at a time. x are the values of the block, and the extreme is the
//! value of largest magnitude:
//!
//! ```text
//! for each level that the extreme may have:               (affine formats: each number of steps in the value range)
//!     step ← extreme / level
//!     next unless every x / step is a level, within the tolerance of rounding to the checkpoint's type
//!     for each storable scale that gives the extreme:     (affine formats: scale and minimum)
//!         accept if every decoded value, rounded to the checkpoint's type, is x
//! ```
//!
//! Affine formats are formats with minima. Invariant: a block is accepted only if each decoded value, rounded to the
//! checkpoint's type, equals the original value (+0 equals −0). There is one exception: an `f32` block with at least
//! three levels may be on a lattice whose scale is not an `f16` value. This block is accepted if no value changes by
//! more than half an `f16` step at that value. If an `f32` block contains only `f16` values, it may come from an `f16`
//! checkpoint. Therefore it is also checked as an `f16` block.
//!
//! A block may have several exact representations: its codes do not reach the extreme level, its codes have a common
//! divisor, or both signs of the scale are possible. Then the largest codes are chosen. If two signs remain, the
//! positive scale is chosen.
//!
//! Not covered here: negative scales of `q4_1` and `q5_1`, which no encoder writes; `bf16` values that are stored as
//! `f32` (they should be read as `bf16`); some affine blocks whose values are very far from zero, where the steps of
//! the checkpoint's type are as long as the steps of the lattice; superblocks whose scales are not multiples of one
//! `f16` value, which includes most superblocks from other formats.

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
    /// The rule that decides if a stored value represents an original value.
    judge: Judge,
    kind: Kind,
}

/// The form of the format's lattices.
enum Kind {
    /// One scale for each block; no minimum.
    Scaled(LevelTable),
    /// One scale and one minimum for each block. The codes are from 0 to `last`, inclusive.
    Affine { last: u8 },
    /// One scale for each block (`d`), multiplied by the integer scale of each group. `scales` has the lowest and the
    /// highest integer scale, inclusive.
    SuperScaled { table: LevelTable, scales: (i16, i16) },
    /// One scale and one scale of minima for each block. They are multiplied by the integer scale and the integer
    /// minimum of each group, which are from 0 to 63. The codes are from 0 to `last`, inclusive.
    SuperAffine { last: u8 },
}

impl Lattice {
    /// Creates the lattice for tensors that have the format `from` and are to be stored in `format`. Returns `None` if
    /// `from` is not `f32`, `f16` or `bf16`, or if `format` has no codes.
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

    /// Writes every block of `rows` that can be carried over. Returns one value for each block: true if it was written.
    /// `rows` has whole rows. The bytes of all other blocks stay unchanged. Panics if `dst` does not have exactly the
    /// bytes of the rows.
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

    /// Writes the block with the values `x` and returns true, or leaves `block` unchanged and returns false. Panics if
    /// `x` and `block` do not have the size of one block of the format.
    pub fn transplant_block(&self, x: &[f32], block: &mut [u8]) -> bool {
        let size = self.format.block();
        assert!(x.len() == size.elements && block.len() == size.bytes, "one block");
        let largest = x.iter().fold(0, |largest, x| (x.to_bits() & !SIGN).max(largest));
        if largest == 0 {
            self.grid.encode(x, None, block);
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

    /// Returns false if an `f32` block cannot be on a lattice. This quick check rejects most blocks. A passed check
    /// does not prove that the block is on a lattice.
    fn may_fit(&self, x: &[f32]) -> bool {
        match &self.kind {
            Kind::Scaled(table) => table.fits(x, scaled::ends(x), Judge::F32).next().is_some(),
            &Kind::Affine { last } => affine::may_fit(x, last),
            Kind::SuperScaled { .. } | Kind::SuperAffine { .. } => true,
        }
    }

    /// Returns the codes and scales of a block with the values `x`, or `None` if the block is not on a lattice.
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

/// The smallest magnitude of an extreme, 2⁻¹²⁰, as `f32` bits. A step is an extreme divided by a level. Below this
/// magnitude, the step would be a subnormal `f32` with a loss of precision.
const SMALLEST: u32 = 7 << 23;

/// Returns true if all values are `f16` values.
fn all_f16(x: &[f32]) -> bool {
    // If an `f16` value is normal, the lowest thirteen bits of its `f32` significand are zero. This check rejects
    // almost all other blocks.
    let bits = x.iter().fold(0, |bits, x| bits | x.to_bits());
    bits & 0x1fff == 0 && x.iter().all(|&x| f16::from_f32(x).to_f32() == x)
}
