//! x86-64 with AVX2, FMA and F16C: the loops of [`super::body`] compiled for them, and decoders of the formats that
//! are read most.

use super::{Operations, body};

/// Proof that this processor has AVX2, FMA and F16C: only detection makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Option<Self> {
        let all = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Option<Self> {
        None
    }

    /// The loops of this instruction set.
    pub fn operations(self) -> &'static Operations {
        &OPERATIONS
    }
}

/// Reached through [`Avx2::operations`] alone, so that the token stands before every call.
static OPERATIONS: Operations = Operations { name: "avx2", dot, add_scaled };

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_avx2(x: &[f32], y: &[f32]) -> f32 {
    body::dot::<true>(x, y)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled_avx2(a: f32, x: &[f32], y: &mut [f32]) {
    body::add_scaled::<true>(a, x, y);
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: these functions are reached through an `Avx2` token, which proves the features.
    unsafe {
        dot_avx2(x, y)
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::dot::<false>(x, y)
}

fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as `dot`.
    unsafe {
        add_scaled_avx2(a, x, y);
    }
    #[cfg(not(target_arch = "x86_64"))]
    body::add_scaled::<false>(a, x, y);
}
