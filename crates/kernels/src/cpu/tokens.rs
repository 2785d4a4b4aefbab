//! Proofs that this processor has what kernels are compiled for: only detection makes one.

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Amx, Avx2, Avx512, AvxVnni};

#[cfg(target_arch = "aarch64")]
mod arm {
    /// NEON with dot products of bytes.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Neon(());

    impl Neon {
        pub fn detect() -> Option<Self> {
            (std::arch::is_aarch64_feature_detected!("neon")
                && std::arch::is_aarch64_feature_detected!("dotprod"))
            .then_some(Self(()))
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2(());

    /// AVX-VNNI beside all of [`Avx2`]: four bytes multiplied at once.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct AvxVnni(Avx2);

    /// AVX-512 F, BW, VL and VNNI beside all of [`Avx2`].
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx512(());

    /// AMX with tiles of bytes beside all of [`Avx512`], and the system's leave to use it.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Amx(Avx512);

    /// Whether this processor has all of these.
    macro_rules! detect {
    ($($name:tt),*) => {
        true $(&& std::is_x86_feature_detected!($name))*
    };
}

    impl Avx2 {
        pub fn detect() -> Option<Self> {
            detect!("avx2", "fma", "f16c").then_some(Self(()))
        }
    }

    impl AvxVnni {
        pub fn detect() -> Option<Self> {
            Avx2::detect().filter(|_| detect!("avxvnni")).map(Self)
        }

        /// What it holds besides.
        pub fn avx2(self) -> Avx2 {
            self.0
        }
    }

    impl Avx512 {
        pub fn detect() -> Option<Self> {
            Avx2::detect()
                .filter(|_| detect!("avx512f", "avx512bw", "avx512vl", "avx512vnni"))
                .map(|_| Self(()))
        }
    }

    impl Amx {
        pub fn detect() -> Option<Self> {
            Avx512::detect().filter(|_| tiles_allowed()).map(Self)
        }

        /// What it holds besides.
        pub fn avx512(self) -> Avx512 {
            self.0
        }
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
}
