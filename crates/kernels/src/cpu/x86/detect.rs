//! What this processor has.

macro_rules! has {
    ($($name:tt),*) => {
        true $(&& std::is_x86_feature_detected!($name))*
    };
}

/// AVX2, FMA and F16C.
pub(super) fn avx2() -> bool {
    has!("avx2", "fma", "f16c")
}

/// AVX-VNNI beside all of [`avx2`]: four bytes multiplied at once.
pub(super) fn avx_vnni() -> bool {
    avx2() && has!("avxvnni")
}

/// AVX-512 F, BW, VL and VNNI beside all of [`avx2`].
pub(super) fn avx512() -> bool {
    avx2() && has!("avx512f", "avx512bw", "avx512vl", "avx512vnni")
}

/// AMX with tiles of bytes beside all of [`avx512`], and the system's permission to use it.
pub(super) fn amx() -> bool {
    avx512() && tiles_allowed()
}

/// Tiles are kilobytes of state of a thread, which Linux saves for processes that asked for them (since 5.16).
#[cfg(target_os = "linux")]
fn tiles_allowed() -> bool {
    use std::sync::OnceLock;
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    /// `ARCH_REQ_XCOMP_PERM` of arch/x86/include/uapi/asm/prctl.h.
    const ASK: libc::c_int = 0x1023;
    /// `XFEATURE_XTILEDATA` of arch/x86/include/asm/fpu/types.h.
    const TILES: libc::c_ulong = 18;
    /// `AMX-TILE` and `AMX-INT8` of leaf 7's EDX (Intel SDM, volume 2, CPUID).
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    *ALLOWED.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        // SAFETY: the call takes numbers alone, and changes nothing but what this process may use.
        leaf.edx & FEATURES == FEATURES && unsafe { libc::syscall(libc::SYS_arch_prctl, ASK, TILES) } == 0
    })
}

#[cfg(not(target_os = "linux"))]
fn tiles_allowed() -> bool {
    false
}
