//! Matrices on a central processor, and the inner loops, each compiled for the instruction sets there are.
//!
//! Three kinds of matrices: in the stored format, decoded as it is multiplied ([`Stored`]); numbers in panels
//! ([`Numbers`]); integer codes in panels ([`Panels`]). Decoding is `kvant-core`'s.

pub(crate) mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod body;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod compiled;
pub(crate) mod floats;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod numbers;
mod panels;
pub(crate) mod scalar;
mod stored;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;
pub(crate) mod tokens;

pub(crate) use kernel::Kernel;
pub(crate) use numbers::Numbers;
pub(crate) use panels::Panels;
pub(crate) use stored::Stored;

use crate::KvFormat;
use crate::dense::View;

/// Bytes of weights that a product of few rows asks for ahead of time, past the end of a page, where the processor's own
/// prefetching stops. One row, `kvant bench`'s machine of docs/performance.md: 80–86 % of bandwidth without, 88–95 % with.
pub(crate) const AHEAD: usize = 4096;

/// Asks for the line at `at`. A hint alone: nothing is read, wherever it points.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it has no effect that is seen.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above, of every AArch64.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

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
    /// Folds whole lines of bytes into a word, as fast as they come.
    pub read: fn(&[u8]) -> u64,
    /// Sums of a part of a panel with rows of activations.
    pub panel: fn(floats::Width, &[u8], View<f32>, &mut floats::Products),
    /// A row of numbers becomes codes of eight bits ([`panels::Activations`]).
    pub round: Round,
    /// Numbers become shares: their powers of e over the sum of all of these.
    pub softmax: fn(&mut [f32]),
    /// The first = x / (1 + e⁻ˣ) of it, times the second.
    pub swiglu: fn(&mut [f32], &[f32]),
    /// The gradients at both inputs of `swiglu`, in their place, from that at its result.
    pub swiglu_back: fn(&mut [f32], &mut [f32], &[f32]),
}

/// Numbers, their codes, each chunk's scale with the scale times its sum, and the sums of its halves.
pub(crate) type Round = fn(&[f32], &mut [i8], &mut [[f32; 2]], &mut [[i16; 2]]);
