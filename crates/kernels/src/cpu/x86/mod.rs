//! The instruction sets of x86-64 and their kernels.

mod amx_codes;
mod amx_tiles;
mod avx2;
mod avx2_codes;
mod avx2_integers;
mod avx2_transposed;
mod avx512;
mod avx512_codes;
mod avx_vnni_codes;
mod chains;
mod detect;
mod simd;

use super::instruction_set::InstructionSet;
use crate::Isa;

/// The kernels for AVX2, FMA and F16C.
pub(super) static AVX2: InstructionSet = InstructionSet {
    isa: Isa::Avx2,
    is_available: detect::avx2,
    loops: avx2::LOOPS,
    codes: avx2_codes::CODES,
    integer_chain: chains::AVX2_INTEGERS,
    float_chain: chains::AVX2_FLOATS,
};

/// The kernels for AVX2, FMA, F16C and AVX-VNNI.
pub(super) static AVX_VNNI: InstructionSet = InstructionSet {
    isa: Isa::AvxVnni,
    is_available: detect::avx_vnni,
    loops: avx2::LOOPS,
    codes: avx_vnni_codes::CODES,
    integer_chain: chains::AVX_VNNI_INTEGERS,
    float_chain: chains::AVX2_FLOATS,
};

/// The kernels for AVX-512 F, BW, VL and VNNI.
pub(super) static AVX512: InstructionSet = InstructionSet {
    isa: Isa::Avx512,
    is_available: detect::avx512,
    loops: avx512::LOOPS,
    codes: avx512_codes::CODES,
    integer_chain: chains::AVX512_INTEGERS,
    float_chain: chains::AVX512_FLOATS,
};

/// The kernels for AVX-512 F, BW, VL and VNNI, and for 8-bit AMX tiles. The tiles multiply many rows of activations.
pub(super) static AMX: InstructionSet = InstructionSet {
    isa: Isa::Amx,
    is_available: detect::amx,
    loops: avx512::LOOPS,
    codes: amx_codes::CODES,
    integer_chain: chains::AMX_INTEGERS,
    float_chain: chains::AVX512_FLOATS,
};
