//! The instruction sets of AArch64 and their kernels.

mod codes;
mod neon;
mod simd;

use super::instruction_set::InstructionSet;
use super::reference::{FLOAT_CHAIN, INTEGER_CHAIN};
use crate::Isa;

/// The kernels for NEON with 8-bit dot products.
pub(super) static NEON: InstructionSet = InstructionSet {
    isa: Isa::Neon,
    is_available: || {
        std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
    },
    loops: neon::LOOPS,
    codes: codes::CODES,
    integer_chain: INTEGER_CHAIN,
    float_chain: FLOAT_CHAIN,
};
