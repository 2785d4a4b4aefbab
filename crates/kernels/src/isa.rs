//! Instruction sets, detected at run time.
//!
//! [`Isa`] is a name. What allows a kernel to run is the token behind it (`cpu/tokens.rs`), which exists only
//! after detection.

use crate::Error;
use crate::cpu::Kernel;

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
    const ALL: &[Self] = &[Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Amx, Self::Neon];

    /// The fastest that this processor has.
    pub fn best() -> Self {
        *Self::available().last().expect("scalar is always there")
    }

    /// The instruction set of this name, or the best for `auto`.
    ///
    /// # Errors
    /// [`Error::UnknownIsa`] for a name that means nothing, [`Error::AbsentIsa`] for one this processor lacks.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        if name == "auto" {
            return Ok(Self::best());
        }
        let Some(&isa) = Self::ALL.iter().find(|isa| isa.name() == name) else {
            let known = std::iter::once("auto").chain(Self::ALL.iter().map(|isa| isa.name())).collect();
            return Err(Error::UnknownIsa { name: name.to_owned(), known });
        };
        if !isa.is_available() {
            let available = Self::available().into_iter().map(Self::name).collect();
            return Err(Error::AbsentIsa { name: isa.name(), available });
        }
        Ok(isa)
    }

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

    /// What this processor has, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|isa| isa.is_available()).collect()
    }

    fn is_available(self) -> bool {
        Kernel::detect(self).is_some()
    }
}

/// What this processor has of what kernels could use.
pub fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! ask {
        ($detected:ident: $($name:tt)*) => {
            $(if std::arch::$detected!($name) {
                found.push($name);
            })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    ask!(is_x86_feature_detected: "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16");
    if Isa::Amx.is_available() {
        found.push("amx-int8");
    }
    #[cfg(target_arch = "aarch64")]
    ask!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_strangers_told_apart() {
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Ok(isa));
        }
        assert_eq!(Isa::by_name("auto"), Ok(Isa::best()));
        let unknown = Isa::by_name("AVX9").unwrap_err();
        assert!(matches!(unknown, Error::UnknownIsa { .. }));
        assert_eq!(
            unknown.to_string(),
            "unknown instruction set \"AVX9\"; known are auto, scalar, avx2, avx-vnni, avx512, amx, neon"
        );
        for &isa in Isa::ALL.iter().filter(|isa| !isa.is_available()) {
            assert!(matches!(Isa::by_name(isa.name()), Err(Error::AbsentIsa { .. })));
        }
    }
}
