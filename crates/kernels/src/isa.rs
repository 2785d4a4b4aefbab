//! Instruction sets, detected at run time.
//!
//! [`Isa`] is a name. What allows a kernel to run is the row behind it in `cpu/instruction_sets.rs`, which is handed out only
//! after detection.

/// A set of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain loops in a fixed order: runs anywhere, the oracle of the others.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    AvxVnni,
    /// The same with AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// The same with AMX's tiles of bytes, for many rows of activations.
    Amx,
    /// AArch64 with dot products of bytes.
    Neon,
}

impl Isa {
    /// Slowest first.
    pub(crate) const ALL: &[Self] =
        &[Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Amx, Self::Neon];

    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
        }
    }
}
