//! Prefetching of weights.

/// Distance in bytes at which products of few rows prefetch codes into the first-level cache. Codes are prefetched into
/// the second-level cache at twice this distance, and scales are prefetched at half of this distance. Software
/// prefetching crosses page boundaries; the hardware prefetcher stops at a page boundary.
pub(crate) const PREFETCH_DISTANCE: usize = 4096;

/// Prefetches `bytes` bytes that begin [`PREFETCH_DISTANCE`] after `at` into the first-level cache, and `bytes` bytes
/// that begin at twice this distance into the second-level cache.
#[inline(always)]
pub(crate) fn prefetch_codes(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch::<true>(at.wrapping_add(PREFETCH_DISTANCE + line));
        prefetch::<false>(at.wrapping_add(2 * PREFETCH_DISTANCE + line));
    }
}

/// Prefetches `bytes` bytes that begin half of [`PREFETCH_DISTANCE`] after `at` into the first-level cache.
#[inline(always)]
pub(crate) fn prefetch_scales(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch::<true>(at.wrapping_add(PREFETCH_DISTANCE / 2 + line));
    }
}

/// Prefetches the cache line at `at`: into the first-level cache if `FIRST_LEVEL` is true, otherwise into the
/// second-level cache. A prefetch is only a hint, so any address is allowed.
#[inline(always)]
pub(crate) fn prefetch<const FIRST_LEVEL: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the prefetch instruction. The instruction changes no memory and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if FIRST_LEVEL {
            _mm_prefetch::<_MM_HINT_T0>(at.cast())
        } else {
            _mm_prefetch::<_MM_HINT_T1>(at.cast())
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every AArch64 processor has the prefetch instruction. The instruction changes no memory and never faults.
    unsafe {
        use std::arch::asm;
        if FIRST_LEVEL {
            asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        } else {
            asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
