//! Which kernels run: tokens of instruction sets, which prove that the processor has them.

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "aarch64")]
use super::tokens::Neon;
#[cfg(target_arch = "x86_64")]
use super::tokens::{Amx, Avx2, Avx512, AvxVnni};
use super::{Operations, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::Isa;

/// What multiplies.
#[derive(Clone, Copy)]
pub(crate) enum Kernel {
    /// The oracle, on panels of so many rows.
    Plain(usize),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Kernel {
    /// `None` if this processor lacks the instruction set.
    pub fn detect(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => Some(Self::Plain(8)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => AvxVnni::detect().map(Self::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Amx::detect().map(Self::Amx),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::detect().map(Self::Neon),
            _ => None,
        }
    }

    /// Rows of a panel of integer codes.
    pub fn rows(self) -> usize {
        match self {
            Self::Plain(rows) => rows,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) | Self::AvxVnni(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) | Self::Amx(_) => 16,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => 8,
        }
    }

    /// The inner loops.
    pub fn operations(self) -> &'static Operations {
        match self {
            Self::Plain(_) => &scalar::OPERATIONS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(token) => avx2::operations(token),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(token) => avx2::operations(token.avx2()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(token) => avx512::operations(token),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(token) => avx512::operations(token.avx512()),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(token) => neon::operations(token),
        }
    }
}
