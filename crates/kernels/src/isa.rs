//! Instruction sets, detected at run time.
//!
//! [`Isa`] is only a name. To run a kernel, the code needs the table entry for this name in `cpu/instruction_sets.rs`.
//! The code gets the entry only if this processor has the instruction set.

/// An instruction set that this crate has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain loops in a fixed order. It runs on every processor and is the reference for the other instruction sets.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// [`Isa::Avx2`] and AVX-VNNI.
    AvxVnni,
    /// [`Isa::Avx2`] and AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// [`Isa::Avx512`] and the AMX tiles for 8-bit integers, which kernels use for many rows of activations.
    Amx,
    /// AArch64 with 8-bit dot products.
    Neon,
}

impl Isa {
    /// All instruction sets, the slowest first.
    pub(crate) const ALL: &[Self] =
        &[Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Amx, Self::Neon];

    /// Returns the name in lower case.
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
