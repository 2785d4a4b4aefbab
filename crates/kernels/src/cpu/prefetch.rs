//! Prefetching of weights.

/// Distance in bytes at which products of few rows prefetch codes into the first-level cache. The second-level cache is
/// prefetched at twice this distance, scales at half of it. Software prefetching crosses page boundaries; the hardware
/// prefetcher stops there.
pub(crate) const PREFETCH_DISTANCE: usize = 4096;

/// Prefetches the codes that follow the `bytes` bytes at `at`, at [`PREFETCH_DISTANCE`] and at twice this distance.
#[inline(always)]
pub(crate) fn prefetch_codes(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch::<true>(at.wrapping_add(PREFETCH_DISTANCE + line));
        prefetch::<false>(at.wrapping_add(2 * PREFETCH_DISTANCE + line));
    }
}

/// Prefetches the scales that follow the `bytes` bytes at `at`, at half of [`PREFETCH_DISTANCE`].
#[inline(always)]
pub(crate) fn prefetch_scales(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        prefetch::<true>(at.wrapping_add(PREFETCH_DISTANCE / 2 + line));
    }
}

/// Prefetches the cache line at `at` into the first-level cache (`FIRST_LEVEL`) or the second-level cache. It is only a
/// hint, so any address is allowed.
#[inline(always)]
pub(crate) fn prefetch<const FIRST_LEVEL: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it has no visible effect.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if FIRST_LEVEL {
            _mm_prefetch::<_MM_HINT_T0>(at.cast())
        } else {
            _mm_prefetch::<_MM_HINT_T1>(at.cast())
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every AArch64 processor has the instruction, and it has no visible effect.
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
