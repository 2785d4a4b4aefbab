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
pub(crate) use panels::{FEW, Panels, Rounded, multiply_few};
pub(crate) use stored::Stored;

use crate::KvFormat;
use crate::dense::View;
use panels::{Outlier, RowCodes};

/// How far ahead of themselves products of few rows ask for codes, past the end of a page, where the processor's own
/// prefetching stops: so far for the nearest cache, twice as far for the second, and half as far for scales. Shares of
/// bandwidth on the machines of docs/performance.md: E 80–86 % without, 88–95 % with the first alone; X 65 % without, 80 % with
/// any one of them, 97 % with all three.
const AHEAD: usize = 4096;

/// Asks for what comes after the `bytes` at `at` of a long run of codes.
#[inline(always)]
pub(crate) fn ask_ahead(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch::<true>(at.wrapping_add(AHEAD + line));
        prefetch::<false>(at.wrapping_add(2 * AHEAD + line));
    }
}

/// The same of the scales beside them.
#[inline(always)]
pub(crate) fn ask_ahead_for_scales(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch::<true>(at.wrapping_add(AHEAD / 2 + line));
    }
}

/// Asks for the line at `at`, for the nearest cache or for the second. A hint alone: nothing is read, wherever it points.
#[inline(always)]
pub(crate) fn prefetch<const NEAREST: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it has no effect that is seen.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if NEAREST { _mm_prefetch::<_MM_HINT_T0>(at.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above, of every AArch64.
    unsafe {
        use std::arch::asm;
        if NEAREST {
            asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        } else {
            asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        }
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
    pub round: fn(&[f32], RowCodes),
    /// The same, and what the first codes left becomes a second row of codes.
    pub round_twice: fn(&[f32], [RowCodes; 2]),
    /// A row's outliers, and codes of eight bits of the others; says how many outliers there are.
    pub round_rest: fn(&[f32], RowCodes, &mut [Outlier]) -> usize,
    /// Numbers become shares: their powers of e over the sum of all of these.
    pub softmax: fn(&mut [f32]),
    /// The first = x / (1 + e⁻ˣ) of it, times the second.
    pub swiglu: fn(&mut [f32], &[f32]),
    /// The gradients at both inputs of `swiglu`, in their place, from that at its result.
    pub swiglu_back: fn(&mut [f32], &mut [f32], &[f32]),
    /// GELU of every number, approximated by tanh.
    pub gelu_tanh: fn(&mut [f32]),
    /// The gradient at the input of `gelu_tanh`, in its place, from that at its result.
    pub gelu_tanh_back: fn(&mut [f32], &[f32]),
}
