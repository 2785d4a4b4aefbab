//! Detects the instruction sets of this processor.

/// Expands to true if the processor has all named features.
macro_rules! has {
    ($($name:tt),*) => {
        true $(&& std::is_x86_feature_detected!($name))*
    };
}

/// Returns true if the processor has AVX2, FMA and F16C.
pub(super) fn avx2() -> bool {
    has!("avx2", "fma", "f16c")
}

/// Returns true if the processor has AVX-VNNI (4-byte dot products) and everything that [`avx2`] checks.
pub(super) fn avx_vnni() -> bool {
    avx2() && has!("avxvnni")
}

/// Returns true if the processor has AVX-512 F, BW, VL and VNNI and everything that [`avx2`] checks.
pub(super) fn avx512() -> bool {
    avx2() && has!("avx512f", "avx512bw", "avx512vl", "avx512vnni")
}

/// Returns true if the processor has AMX with 8-bit tiles and everything that [`avx512`] checks, and if the system
/// permits this process to use AMX.
pub(super) fn amx() -> bool {
    avx512() && request_tiles()
}

/// Requests the permission to use AMX tiles. Returns true if the processor has 8-bit tiles and the system grants the
/// permission. The tiles add kilobytes to the state of a thread. So Linux (since 5.16) saves them only for processes
/// that requested the permission.
#[cfg(target_os = "linux")]
fn request_tiles() -> bool {
    use std::sync::OnceLock;
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    /// `ARCH_REQ_XCOMP_PERM` of arch/x86/include/uapi/asm/prctl.h.
    const REQUEST_PERMISSION: libc::c_int = 0x1023;
    /// `XFEATURE_XTILEDATA` of arch/x86/include/asm/fpu/types.h.
    const TILE_DATA: libc::c_ulong = 18;
    /// `AMX-TILE` and `AMX-INT8` of leaf 7's EDX (Intel SDM, volume 2, CPUID).
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    *PERMITTED.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        // SAFETY: the arguments of the system call are only integers. Its only effect is the permission.
        leaf.edx & FEATURES == FEATURES
            && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0
    })
}

#[cfg(not(target_os = "linux"))]
fn request_tiles() -> bool {
    false
}
