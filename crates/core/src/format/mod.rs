//! The storage formats, one file each, and their registry.
//!
//! A format is upstream's (llama.cpp's `ggml-common.h` for the quantized ones): same bits, same name. To add one,
//! write its file and its line in [`FORMATS`]; the test suites loop over the registry.

mod affine;
mod fit;
mod float;
mod halves;
mod iq4;
mod iq4_nl;
mod iq4_xs;
mod k_affine;
mod k_scales;
mod lanes;
mod mxfp4;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod symmetric;

use crate::{Codes, Error, Levels, Shape};
use half::f16;
use std::fmt;

/// The unit of storage: `elements` numbers in `bytes` bytes, in groups of `group` that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Numbers a block.
    pub elements: usize,
    /// Numbers that share one scale; divides `elements`.
    pub group: usize,
    /// Bytes a block.
    pub bytes: usize,
}

/// How numbers are stored.
pub trait Format: Send + Sync + 'static {
    /// Upstream's name in lower case, for example `q4_k`.
    fn name(&self) -> &'static str;

    /// The unit of storage.
    fn block(&self) -> Block;

    /// Bytes to numbers. `src` is whole blocks, `dst` has exactly their elements. Total: any bytes decode, some
    /// to NaN or infinity.
    fn decode(&self, src: &[u8], dst: &mut [f32]);

    /// Numbers to bytes: upstream's search where there is one, else its rounding.
    ///
    /// `rows` are whole rows; `importance`, if given, has one positive weight a column, and its length is the row
    /// length. `dst` has exactly the rows' bytes. Deterministic, whatever the instruction set.
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]);

    /// The format's integer codes, or `None` for plain floating point.
    fn grid(&self) -> Option<&dyn Grid>;

    /// Bytes of a tensor of this shape.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] where a row is not whole blocks.
    fn tensor_bytes(&self, shape: &Shape) -> Result<usize, Error> {
        let block = self.block();
        if !shape.columns().is_multiple_of(block.elements) {
            return Err(Error::PartialBlock {
                columns: shape.columns(),
                block_elements: block.elements,
                format: self.name(),
            });
        }
        Ok(shape.elements() / block.elements * block.bytes)
    }

    /// Bits a number, scales included.
    fn bits_per_weight(&self) -> f64 {
        let block = self.block();
        block.bytes as f64 * 8.0 / block.elements as f64
    }
}

/// Which stored scales a [`Grid::fit`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The block's own scales `d` and `dmin`, from all its elements (and nothing else changes). Where the format has
    /// one group a block, the same as that group.
    Block,
    /// Integer scale and min of one group, from its elements, under the block's `d` and `dmin`. Where the format
    /// has one group a block, this chooses `d` and `dmin` themselves.
    Group(usize),
}

/// What stands beside the codes: which scales a solver may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// The block's `d` alone.
    Block,
    /// The block's `d` and `dmin`, every group's integers being 1.
    BlockAffine,
    /// `d`, and for each group an integer scale of `low..=high`.
    Groups {
        /// Least integer.
        low: i16,
        /// Largest integer.
        high: i16,
    },
    /// `d` and `dmin`, and for each group an integer scale and an integer minimum, both of `0..=high`.
    GroupsAffine {
        /// Largest integer.
        high: i16,
    },
}

/// A format whose blocks are integer codes under stored scales, so that a solver can choose them itself.
pub trait Grid: Sync {
    /// What the codes stand for.
    fn levels(&self) -> Levels;

    /// Which scales are stored.
    fn scaling(&self) -> Scaling;

    /// Opens one block of `block().bytes` bytes.
    fn unpack(&self, block: &[u8], codes: &mut Codes);

    /// Closes one block: the inverse of [`Grid::unpack`].
    fn pack(&self, codes: &Codes, block: &mut [u8]);

    /// Chooses stored scales for the values `x` of `part` (a whole block's or one group's elements) into `codes`, so
    /// that squared errors weighted by `importance` of the same length, uniformly where there is none, are small.
    /// Codes stay as they are. A block or group whose scale does not fit the stored type gets an infinite one.
    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes);

    /// What is left of a block's `d` or `dmin` once it is stored; `codes.d` has to be such a number.
    fn stored(&self, d: f32) -> f32 {
        stored_f16(d)
    }

    /// A magnitude that no block holds: whatever is larger than this overflows the stored scales.
    fn reach(&self) -> f32 {
        let levels = self.levels();
        let level = (0..levels.count()).map(|c| levels.level(c as u8).abs()).fold(0.0, f32::max);
        F16_OVERFLOW
            * match self.scaling() {
                Scaling::Block => level,
                Scaling::BlockAffine => level + 1.0,
                Scaling::Groups { low, high } => level * f32::from(low.abs().max(high)),
                Scaling::GroupsAffine { high } => (level + 1.0) * f32::from(high),
            }
    }

    /// Chooses the code of element `at` nearest to `x` under the scales in `codes`, and returns the stored value.
    fn round(&self, codes: &mut Codes, at: usize, x: f32) -> f32 {
        let levels = self.levels();
        let group = at / (codes.codes.len() / codes.scales.len());
        let scale = codes.scale(group);
        codes.codes[at] =
            if scale == 0.0 { levels.nearest(0.0) } else { levels.nearest((x + codes.min(group)) / scale) };
        codes.value(&levels, at)
    }
}

/// The least number that `f16` rounds to infinity.
const F16_OVERFLOW: f32 = 65_520.0;

/// A format of the registry.
pub type FormatRef = &'static dyn Format;

impl fmt::Debug for dyn Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn Format {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Format {}

pub use affine::{Q4_1, Q5_1};
pub use float::{BF16, F16, F32};
pub use iq4_nl::Iq4Nl;
pub use iq4_xs::Iq4Xs;
pub use mxfp4::Mxfp4;
pub use q4_k::Q4K;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use symmetric::{Q4_0, Q5_0};

/// Every format that kvant knows.
pub static FORMATS: &[FormatRef] =
    &[&F32, &F16, &BF16, &Q8_0, &Q4_0, &Q4_1, &Q5_0, &Q5_1, &Iq4Nl, &Mxfp4, &Q4K, &Q5K, &Q6K, &Iq4Xs];

/// The format of this name (upstream's spelling in lower case).
pub fn by_name(name: &str) -> Option<FormatRef> {
    FORMATS.iter().copied().find(|f| f.name() == name)
}

/// A fixed-size view of a slice of exactly that length.
fn array<T, const N: usize>(slice: &[T]) -> &[T; N] {
    slice.try_into().expect("the caller sliced a block of this size")
}

/// Pairs each block of bytes with its numbers.
fn blocks<'a, const B: usize, const E: usize>(
    src: &'a [u8],
    dst: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; B], &'a mut [f32; E])> {
    assert!(
        src.len().is_multiple_of(B) && src.len() / B * E == dst.len(),
        "bytes and numbers are whole blocks"
    );
    src.as_chunks().0.iter().zip(dst.as_chunks_mut().0)
}

/// Pairs each block of bytes to be written with its numbers.
fn blocks_mut<'a, const B: usize, const E: usize>(
    dst: &'a mut [u8],
    src: &'a [f32],
) -> impl Iterator<Item = (&'a mut [u8; B], &'a [f32; E])> {
    assert!(
        dst.len().is_multiple_of(B) && dst.len() / B * E == src.len(),
        "bytes and numbers are whole blocks"
    );
    dst.as_chunks_mut().0.iter_mut().zip(src.as_chunks().0)
}

/// Does `work` to each block and its numbers, compiled for each instruction set.
fn each_block<const B: usize, const E: usize>(
    src: &[u8],
    dst: &mut [f32],
    work: impl Fn(&[u8; B], &mut [f32; E]),
) {
    pulp::Arch::new().dispatch(EachBlock { src, dst, work });
}

/// [`each_block`] as a type: a closure in its place would be called through a function of the base instruction set.
struct EachBlock<'a, W, const B: usize, const E: usize> {
    src: &'a [u8],
    dst: &'a mut [f32],
    work: W,
}

impl<W: Fn(&[u8; B], &mut [f32; E]), const B: usize, const E: usize> pulp::NullaryFnOnce
    for EachBlock<'_, W, B, E>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (block, x) in blocks(self.src, self.dst) {
            (self.work)(block, x);
        }
    }
}

/// Does `work` to each block to be written and its numbers, compiled for each instruction set.
fn each_block_mut<const B: usize, const E: usize>(
    dst: &mut [u8],
    src: &[f32],
    work: impl Fn(&mut [u8; B], &[f32; E]),
) {
    each_weighted_block(
        dst,
        src,
        None,
        #[inline(always)]
        |block, x, _| work(block, x),
    );
}

/// [`each_block_mut`] with the importance of the block's columns, where that is known.
fn each_weighted_block<const B: usize, const E: usize>(
    dst: &mut [u8],
    src: &[f32],
    importance: Option<&[f32]>,
    work: impl Fn(&mut [u8; B], &[f32; E], Option<&[f32]>),
) {
    pulp::Arch::new().dispatch(EachBlockMut { dst, src, importance, work });
}

/// [`each_weighted_block`] as a type, as [`EachBlock`].
struct EachBlockMut<'a, W, const B: usize, const E: usize> {
    dst: &'a mut [u8],
    src: &'a [f32],
    importance: Option<&'a [f32]>,
    work: W,
}

impl<W: Fn(&mut [u8; B], &[f32; E], Option<&[f32]>), const B: usize, const E: usize> pulp::NullaryFnOnce
    for EachBlockMut<'_, W, B, E>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (index, (block, x)) in blocks_mut(self.dst, self.src).enumerate() {
            (self.work)(block, x, importance_at(self.importance, index * E, E));
        }
    }
}

/// The importance of the `count` columns that element `at` of some rows begins.
#[inline(always)]
fn importance_at(importance: Option<&[f32]>, at: usize, count: usize) -> Option<&[f32]> {
    importance.map(|all| &all[at % all.len()..][..count])
}

/// The code of each number. A plain loop: the standard library's closures over arrays are not always inlined, and then
/// lose the caller's instruction set.
#[inline(always)]
fn coded<const N: usize>(x: &[f32; N], code: impl Fn(f32) -> u8) -> [u8; N] {
    let mut codes = [0; N];
    for (out, &x) in codes.iter_mut().zip(x) {
        *out = code(x);
    }
    codes
}

#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[inline(always)]
fn put_f16(block: &mut [u8], at: usize, x: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// What is left of `x` once it is stored as `f16`.
#[inline(always)]
fn stored_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn dispatch_knows_the_vectors_that_the_processor_has() {
        use std::is_x86_feature_detected as has;
        let vectors = has!("avx2") && has!("fma") && has!("bmi2") && has!("lzcnt") && has!("movbe");
        let plain = matches!(pulp::Arch::new(), pulp::Arch::Scalar);
        assert!(
            !(vectors && plain),
            "features of `pulp` are switched off: every search runs on the base instruction set"
        );
    }
}
