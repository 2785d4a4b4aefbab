//! Proofs that this processor has what kernels are compiled for: only detection makes one.

/// AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

/// AVX-VNNI beside all of [`Avx2`]: four bytes multiplied at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AvxVnni(Avx2);

/// AVX-512 F, BW, VL and VNNI beside all of [`Avx2`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

/// Detection of what `$(name),*` say, beside what `$before` proves.
macro_rules! detect {
    ($($name:tt),*) => {{
        #[cfg(target_arch = "x86_64")]
        let all = true $(&& std::is_x86_feature_detected!($name))*;
        #[cfg(not(target_arch = "x86_64"))]
        let all = false;
        all
    }};
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
        Avx2::detect().filter(|_| detect!("avx512f", "avx512bw", "avx512vl", "avx512vnni")).map(|_| Self(()))
    }
}
