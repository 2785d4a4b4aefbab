//! The storage formats, one file each, and their registry.
//!
//! The quantized formats are those of llama.cpp (`ggml-common.h`), with the same bits and names. Below, "upstream" is
//! llama.cpp. To add a format, write its file and add it to [`FORMATS`]. The test suites loop over the registry.

mod affine;
mod codebooks;
mod fit;
mod float;
mod halves;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4;
mod iq4_nl;
mod iq4_xs;
mod k_affine;
mod k_scales;
mod lanes;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;
mod quarters;
mod search;
mod symmetric;
mod tq1_0;
mod tq2_0;

use crate::{Codes, Error, Levels, Shape};
use half::f16;
use std::fmt;

/// The unit of storage: `elements` values in `bytes` bytes. Each group of `group` values shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Values per block.
    pub elements: usize,
    /// Values per group, which share one scale; divides `elements`.
    pub group: usize,
    /// Bytes per block.
    pub bytes: usize,
}

/// A storage format of floating-point values.
///
/// A format without an encoder is read-only: its tensors can be decoded, multiplied, copied, and quantized to another
/// format.
pub trait Format: Send + Sync + 'static {
    /// The upstream name in lower case, for example `q4_k`.
    fn name(&self) -> &'static str;

    /// The unit of storage.
    fn block(&self) -> Block;

    /// Decodes bytes to floats. `src` has whole blocks, `dst` has exactly their elements. Any bytes can be decoded;
    /// some give NaN or infinity.
    fn decode(&self, src: &[u8], dst: &mut [f32]);

    /// Access to the format's integer codes; `None` for a floating-point format and for a read-only format.
    fn grid(&self) -> Option<&dyn Grid> {
        None
    }

    /// The encoder; `None` for a read-only format. A format with a [`Grid`] always has one.
    fn encoder(&self) -> Option<&dyn Encoder> {
        self.grid().map(|grid| grid as &dyn Encoder)
    }

    /// True if several values share a scale, so that the format does not keep each value by itself. False for a
    /// floating-point format.
    fn is_quantized(&self) -> bool {
        self.block().elements > 1
    }

    /// The number of bytes of a tensor with this shape.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] if a row does not consist of whole blocks.
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

    /// Bits per value, including the scales.
    fn bits_per_weight(&self) -> f64 {
        let block = self.block();
        block.bytes as f64 * 8.0 / block.elements as f64
    }
}

/// The encoder of a format that kvant writes.
pub trait Encoder: Sync {
    /// Encodes floats to bytes with upstream's scale search, or with its rounding if it has no search.
    ///
    /// `rows` has whole rows. `importance`, if given, has one positive weight per column, and its length is the row
    /// length. `dst` has exactly the rows' bytes. The result is the same on each instruction set.
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]);
}

/// Selects the stored scales that [`Grid::fit`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The block's scales `d` and `dmin`, from all elements of the block. Nothing else changes. If the format has one
    /// group per block, this is the same as [`Part::Group`].
    Block,
    /// The integer scale and minimum of one group, from the group's elements, with the block's `d` and `dmin` fixed. If
    /// the format has one group per block, this chooses `d` and `dmin` instead.
    Group(usize),
}

/// The scales that a format stores beside the codes, and that a solver can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// Only the block's `d`.
    Block,
    /// The block's `d` and `dmin`. The integer scale and minimum of the group are 1.
    BlockAffine,
    /// `d`, and for each group an integer scale in `low..=high`.
    Groups {
        /// The smallest integer.
        low: i16,
        /// The largest integer.
        high: i16,
    },
    /// `d` and `dmin`, and for each group an integer scale and an integer minimum, both in `0..=high`.
    GroupsAffine {
        /// The largest integer.
        high: i16,
    },
}

/// A format whose blocks store integer codes and scales. A solver can choose both itself.
pub trait Grid: Encoder {
    /// The levels of the codes.
    fn levels(&self) -> Levels;

    /// The stored scales.
    fn scaling(&self) -> Scaling;

    /// Unpacks one block of `block().bytes` bytes.
    fn unpack(&self, block: &[u8], codes: &mut Codes);

    /// Packs one block: the inverse of [`Grid::unpack`].
    fn pack(&self, codes: &Codes, block: &mut [u8]);

    /// Chooses the stored scales of `part` and writes them to `codes`, to make the weighted squared error of `x` small.
    /// `x` has the elements of the whole block or of the group. `importance` has the weights of the squared errors and
    /// the length of `x`; without it, all weights are equal. The integer codes do not change. If a scale does not fit
    /// the stored type, it becomes infinite.
    fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes);

    /// Rounds a block's `d` or `dmin` to the stored type. `codes.d` must be such a value.
    fn stored(&self, d: f32) -> f32 {
        stored_f16(d)
    }

    /// An upper bound of the magnitudes that a block can store. A larger value overflows the stored scales.
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

    /// Sets the code of element `index` to the one nearest to `x`, with the scales in `codes`. Returns its dequantized
    /// value.
    fn round(&self, codes: &mut Codes, index: usize, x: f32) -> f32 {
        let levels = self.levels();
        let group = index / (codes.codes.len() / codes.scales.len());
        let scale = codes.scale(group);
        codes.codes[index] =
            if scale == 0.0 { levels.nearest(0.0) } else { levels.nearest((x + codes.min(group)) / scale) };
        codes.value(&levels, index)
    }
}

/// The smallest value that rounds to infinity in `f16`.
const F16_OVERFLOW: f32 = 65_520.0;

/// A reference to a format of the registry.
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
pub use iq1_m::Iq1M;
pub use iq1_s::Iq1S;
pub use iq2_s::Iq2S;
pub use iq2_xs::Iq2Xs;
pub use iq2_xxs::Iq2Xxs;
pub use iq3_s::Iq3S;
pub use iq3_xxs::Iq3Xxs;
pub use iq4_nl::Iq4Nl;
pub use iq4_xs::Iq4Xs;
pub use mxfp4::Mxfp4;
pub use nvfp4::Nvfp4;
pub use q1_0::Q1_0;
pub use q2_0::Q2_0;
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4_k::Q4K;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use symmetric::{Q4_0, Q5_0};
pub use tq1_0::Tq1_0;
pub use tq2_0::Tq2_0;

/// All formats that kvant reads. Those with an [`Encoder`] come first.
pub static FORMATS: &[FormatRef] = &[
    &F32, &F16, &BF16, &Q8_0, &Q4_0, &Q4_1, &Q5_0, &Q5_1, &Iq4Nl, &Mxfp4, &Q4K, &Q5K, &Q6K, &Iq4Xs, &Q2K,
    &Q3K, &Iq1S, &Iq1M, &Iq2Xxs, &Iq2Xs, &Iq2S, &Iq3Xxs, &Iq3S, &Tq1_0, &Tq2_0, &Nvfp4, &Q1_0, &Q2_0,
];

/// Returns the format of this name (the upstream name in lower case).
pub fn by_name(name: &str) -> Option<FormatRef> {
    FORMATS.iter().copied().find(|f| f.name() == name)
}

/// Converts a slice of length `N` to an array reference.
fn array<T, const N: usize>(slice: &[T]) -> &[T; N] {
    slice.try_into().expect("the caller sliced a block of this size")
}

/// Iterates over the blocks: the bytes of each block, and its decoded values.
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

/// Iterates over the blocks: the output bytes of each block, and its values to encode.
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

/// Calls `work` on the bytes and the values of each block. It is compiled for each instruction set.
fn each_block<const B: usize, const E: usize>(
    src: &[u8],
    dst: &mut [f32],
    work: impl Fn(&[u8; B], &mut [f32; E]),
) {
    pulp::Arch::new().dispatch(EachBlock { src, dst, work });
}

/// [`each_block`] as a type. A closure here would be called through a function of the base instruction set.
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

/// Calls `work` on the output bytes and the values of each block. It is compiled for each instruction set.
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

/// Like [`each_block_mut`], with the importance of the block's columns if it is known.
fn each_weighted_block<const B: usize, const E: usize>(
    dst: &mut [u8],
    src: &[f32],
    importance: Option<&[f32]>,
    work: impl Fn(&mut [u8; B], &[f32; E], Option<&[f32]>),
) {
    pulp::Arch::new().dispatch(EachBlockMut { dst, src, importance, work });
}

/// [`each_weighted_block`] as a type, for the same reason as [`EachBlock`].
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

/// Returns the importance of the columns of `count` elements. `start` is the index of the first element, counted from
/// the first element of a whole row.
#[inline(always)]
fn importance_at(importance: Option<&[f32]>, start: usize, count: usize) -> Option<&[f32]> {
    importance.map(|all| &all[start % all.len()..][..count])
}

/// Returns the code of each value. This is a plain loop because the compiler does not always inline `[T; N]::map` and
/// its closure. Without inlining, they are not compiled for the caller's instruction set.
#[inline(always)]
fn codes_of<const N: usize>(x: &[f32; N], code: impl Fn(f32) -> u8) -> [u8; N] {
    let mut codes = [0; N];
    for (out, &x) in codes.iter_mut().zip(x) {
        *out = code(x);
    }
    codes
}

#[inline(always)]
fn f16_at(block: &[u8], byte: usize) -> f32 {
    f16::from_le_bytes([block[byte], block[byte + 1]]).to_f32()
}

#[inline(always)]
fn put_f16(block: &mut [u8], byte: usize, x: f32) {
    block[byte..byte + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// Rounds `x` to `f16`.
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
