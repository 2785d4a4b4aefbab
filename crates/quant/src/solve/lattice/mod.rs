//! Weights that lie on a quantization lattice already, carried over as they are instead of estimated anew.
//!
//! A checkpoint of floats may hold nothing but integers under scales: trained with quantization (QAT), or quantized
//! by GPTQ, AWQ or llama.cpp and expanded. A search for scales would move such weights a second time. [`Lattice`]
//! looks at one block of the target format:
//!
//! ```text
//! for each level that the block's extreme may have:       (affine formats: each number of steps from end to end)
//!     step ← extreme / level
//!     next unless every x / step is a level, within what rounding to the checkpoint's type can have moved it
//!     for each storable scale that rounds to the extreme: (affine formats: scale and minimum)
//!         accept if every decoded value, rounded to the checkpoint's type, is x
//! ```
//!
//! Invariant: a block is accepted only if each of its values, as the format's `decode` gives it and rounded to the
//! type that the checkpoint has, equals the original (zeros of either sign are one). One exception: an `f32` block of
//! at least three levels lies on a lattice whose scale is no `f16`; it is accepted if no value moves by more than half
//! a step of `f16` at that value.
//! An `f32` block that holds only `f16` numbers may be such a checkpoint widened, and is also judged as one.
//!
//! Where a block has several exact representations (no extreme code, a common divisor, one sign as good as the
//! other), one of them is chosen: the largest codes first, and a positive scale where signs are alike.
//!
//! Left out: negative scales of `q4_1` and `q5_1`, which no encoder writes; `bf16` widened to `f32` (say `bf16`
//! instead); some affine blocks so far from zero that the checkpoint's own steps are as long as the lattice's;
//! superblocks whose scales are not multiples of one `f16`, which is most that did not come from the same format.

mod affine;
mod exactness;
mod scaled;
mod span;
mod superblock;

use exactness::Judge;
use half::f16;
use kvant_core::{Codes, FormatRef, Grid, Levels};
use scaled::Scaled;

/// Carries blocks of a float tensor over into one format.
pub struct Lattice {
    format: FormatRef,
    grid: &'static dyn Grid,
    judge: Judge,
    kind: Kind,
}

enum Kind {
    /// One scale a block.
    Scaled(Scaled),
    /// One scale and one minimum a block, codes 0 to `last`.
    Affine { last: u8 },
    /// Integer scales of groups under one scale.
    SuperScaled { table: Scaled, scales: (i16, i16) },
    /// Integer scales and minima of groups, 0 to 63, under one scale and one scale of minima.
    SuperAffine { last: u8 },
}

impl Lattice {
    /// For a checkpoint's tensors of format `from`, to be stored in `format`; `None` where `from` is not one of `f32`,
    /// `f16` and `bf16`, or `format` has no codes.
    pub fn new(from: FormatRef, format: FormatRef) -> Option<Self> {
        let (judge, grid) = (Judge::of(from)?, format.grid()?);
        let (levels, block) = (grid.levels(), format.block());
        let affine = matches!(levels, Levels::Linear { offset: 0, .. });
        let last = (levels.count() - 1) as u8;
        let kind = match (affine, block.group == block.elements) {
            (false, true) => Kind::Scaled(Scaled::new(&levels)),
            (true, true) => Kind::Affine { last },
            (false, false) => {
                let scales = if block.group == 16 { (-128, 127) } else { (-32, 31) };
                Kind::SuperScaled { table: Scaled::new(&levels), scales }
            }
            (true, false) => Kind::SuperAffine { last },
        };
        Some(Self { format, grid, judge, kind })
    }

    /// Writes every block of `rows` that can be carried over, and says which were. `rows` are whole rows; the bytes of
    /// other blocks stay as they are. Panics if `dst` has not exactly the rows' bytes.
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

    /// Writes the block of these values and returns true, or leaves it as it is and returns false. Panics unless `x`
    /// and `block` are one block of the format.
    pub fn transplant_block(&self, x: &[f32], block: &mut [u8]) -> bool {
        let size = self.format.block();
        assert!(x.len() == size.elements && block.len() == size.bytes, "one block");
        let most = x.iter().fold(0, |most, x| (x.to_bits() & !SIGN).max(most));
        if most == 0 {
            self.format.encode(x, None, block);
            return true;
        }
        if !(SMALLEST..f32::MAX.to_bits()).contains(&most) {
            return false;
        }
        let solved = match self.judge {
            Judge::F32 if all_f16(x) => self.solve(x, Judge::F32).or_else(|| self.solve(x, Judge::F16)),
            Judge::F32 if !self.may_lie(x) => None,
            Judge::F32 => self.solve(x, Judge::F32).or_else(|| self.solve(x, Judge::Near)),
            judge => self.solve(x, judge),
        };
        if let Some(codes) = &solved {
            self.grid.pack(codes, block);
        }
        solved.is_some()
    }

    /// Whether an `f32` block may lie on any lattice: the quick answer that most blocks get.
    fn may_lie(&self, x: &[f32]) -> bool {
        match &self.kind {
            Kind::Scaled(table) => table.fits(x, scaled::ends(x), Judge::F32).next().is_some(),
            &Kind::Affine { last } => affine::may_lie(x, last),
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

/// Below this magnitude, 2⁻¹²⁰, a step would lose digits.
const SMALLEST: u32 = 7 << 23;

fn all_f16(x: &[f32]) -> bool {
    // Thirteen bits of a significand are left zero, which tells almost all other blocks apart.
    let bits = x.iter().fold(0, |bits, x| bits | x.to_bits());
    bits & 0x1fff == 0 && x.iter().all(|&x| f16::from_f32(x).to_f32() == x)
}
