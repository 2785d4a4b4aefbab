//! Which kernels run: tokens of instruction sets, which prove that the processor has them.

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
    Avx2(Avx2),
    AvxVnni(AvxVnni),
    Avx512(Avx512),
    Amx(Amx),
}

impl Kernel {
    /// `None` if this processor lacks the instruction set.
    pub fn detect(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => Some(Self::Plain(8)),
            Isa::Avx2 => Avx2::detect().map(Self::Avx2),
            Isa::AvxVnni => AvxVnni::detect().map(Self::AvxVnni),
            Isa::Avx512 => Avx512::detect().map(Self::Avx512),
            Isa::Amx => Amx::detect().map(Self::Amx),
        }
    }

    /// Rows of a panel of integer codes.
    pub fn rows(self) -> usize {
        match self {
            Self::Plain(rows) => rows,
            Self::Avx2(_) | Self::AvxVnni(_) => 8,
            Self::Avx512(_) | Self::Amx(_) => 16,
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
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("no token of a foreign instruction set exists"),
        }
    }
}
