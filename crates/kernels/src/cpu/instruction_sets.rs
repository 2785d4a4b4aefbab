//! The table of instruction sets, and the detection of the instruction sets that this processor has.

#[cfg(target_arch = "aarch64")]
use super::aarch64;
use super::instruction_set::{Detected, InstructionSet};
use super::reference;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::{Error, Isa};

/// All instruction sets of this architecture, from the slowest to the fastest.
static INSTRUCTION_SETS: &[&InstructionSet] = &[
    &reference::SCALAR,
    #[cfg(target_arch = "x86_64")]
    &x86::AVX2,
    #[cfg(target_arch = "x86_64")]
    &x86::AVX_VNNI,
    #[cfg(target_arch = "x86_64")]
    &x86::AVX512,
    #[cfg(target_arch = "x86_64")]
    &x86::AMX,
    #[cfg(target_arch = "aarch64")]
    &aarch64::NEON,
];

/// Returns the kernels of an instruction set, or `None` if this processor lacks it.
pub(crate) fn detect(isa: Isa) -> Option<Detected> {
    let found = INSTRUCTION_SETS.iter().find(|set| set.isa == isa)?;
    Detected::new(found)
}

impl Isa {
    /// Returns the fastest instruction set of this processor.
    pub fn best() -> Self {
        *Self::available().last().expect("scalar is always there")
    }

    /// Returns the instruction set with this name. The name `auto` means the fastest instruction set of this processor.
    ///
    /// # Errors
    /// [`Error::UnknownIsa`] if no instruction set has this name. [`Error::AbsentIsa`] if this processor lacks the
    /// instruction set.
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

    /// Returns the instruction sets of this processor, from the slowest to the fastest.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|isa| isa.is_available()).collect()
    }

    fn is_available(self) -> bool {
        detect(self).is_some()
    }
}

/// Returns the names of the features that this processor has and that kernels can use.
pub fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! push_detected {
        ($detected:ident: $($name:tt)*) => {
            $(if std::arch::$detected!($name) {
                found.push($name);
            })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    push_detected!(is_x86_feature_detected: "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16");
    if Isa::Amx.is_available() {
        found.push("amx-int8");
    }
    #[cfg(target_arch = "aarch64")]
    push_detected!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_found_and_unknown_names_rejected() {
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
