//! Tokens of the processors that multiply four bytes at once (VNNI). Numbers go the way of AVX2 on both.

use super::avx2::Avx2;

/// Proof of AVX-VNNI beside all of [`Avx2`]: only detection makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AvxVnni(());

/// Proof of AVX-512 F, BW, VL and VNNI beside all of [`Avx2`]: only detection makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl AvxVnni {
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Option<Self> {
        (Avx2::detect().is_some() && std::is_x86_feature_detected!("avxvnni")).then_some(Self(()))
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Option<Self> {
        None
    }
}

impl Avx512 {
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Option<Self> {
        let all = Avx2::detect().is_some()
            && std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Option<Self> {
        None
    }
}
