//! Matrices on a central processor: rows of blocks, multiplied where they lie.
//!
//! A stored row is decoded to f32 and multiplied at once. Few rows of activations take a dot product each
//! ([`Operations::dot`]), some take tiles of them ([`Operations::tiles`]); many take a panel of decoded rows and `gemm`.
//! Decoding is `kvant-core`'s.
//! Left out, for now: kernels on integers, and decoders written for one instruction set.

pub(crate) mod attend;
pub(crate) mod avx2;
pub(crate) mod body;
mod panels;
pub(crate) mod scalar;
mod stored;

pub(crate) use panels::Panels;
pub(crate) use stored::Stored;

use crate::KvFormat;
use crate::dense::View;

/// The inner loops, each compiled for one instruction set.
pub(crate) struct Operations {
    /// Name of the instruction set.
    pub name: &'static str,
    /// Σ xᵢ yᵢ in an order that depends on the length alone.
    pub dot: fn(&[f32], &[f32]) -> f32,
    /// Adds a page (its number, keys and values of this format) to what rows have seen.
    pub attend: fn(KvFormat, &mut attend::Rows, usize, &[u8], &[u8]),
    /// The first (rows so far apart) += a · b, a row of a (as many numbers as b has rows) for each of them.
    pub add_few: fn(&mut [f32], usize, &[f32], View<f32>),
    /// Products of all rows of the first with all of the second (as long, one after the other), handed over as (row of
    /// the first, row of the second, product); each in an order that depends on their length alone.
    pub tiles: fn(View<f32>, &[f32], Take),
    /// A row of numbers becomes codes of eight bits ([`panels::Activations`]).
    pub round: fn(&[f32], &mut [i8], &mut [[f32; 2]], &mut [[i16; 2]]),
    /// Numbers become shares: their powers of e over the sum of all of these.
    pub softmax: fn(&mut [f32]),
    /// The first = x / (1 + e⁻ˣ) of it, times the second.
    pub swiglu: fn(&mut [f32], &[f32]),
    /// The gradients at both inputs of `swiglu`, in their place, from that at its result.
    pub swiglu_back: fn(&mut [f32], &mut [f32], &[f32]),
}

/// Takes a product: row of the first, row of the second, what they come to.
pub(crate) type Take<'a> = &'a mut dyn FnMut(usize, usize, f32);
