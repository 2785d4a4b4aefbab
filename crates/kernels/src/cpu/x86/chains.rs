//! Independent chains of multiply-add instructions, which measure the peak throughput. The code is assembly, so that
//! the compiler cannot remove instructions.

use super::amx_tiles::ConfiguredTiles;
use crate::cpu::instruction_set::Chain;
use std::arch::asm;

/// Number of accumulator tiles. The chains of different accumulators are independent.
const TILE_ACCUMULATORS: usize = 4;
/// Approximate ratio between the time of a tile step and the time of a step of the other chains. The tile chain runs
/// this many times fewer steps, so that all chains take a similar time.
const TILE_STEP_COST: usize = 16;

/// Runs `steps / TILE_STEP_COST` tile steps, at least one. A tile step is 16 × 16 × 64 multiply-adds of bytes per
/// accumulator tile.
///
/// # Safety
/// The processor has AMX.
unsafe fn tiles(steps: usize) {
    // SAFETY: the caller guarantees that the processor has AMX.
    let _tiles = unsafe { ConfiguredTiles::new(&[(16, 64); 6]) };
    let steps = steps / TILE_STEP_COST;
    // SAFETY: the caller guarantees that the processor has AMX. The tiles are configured. The assembly changes only the
    // declared registers.
    unsafe {
        asm!(
            ".irp i, 0, 1, 2, 3, 4, 5",
            "tilezero tmm\\i",
            ".endr",
            "2:",
            ".irp i, 0, 1, 2, 3",
            "tdpbssd tmm\\i, tmm4, tmm5",
            ".endr",
            "dec {steps}",
            "jnz 2b",
            steps = inout(reg) steps.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
            options(nomem, nostack),
        );
    }
}

/// Number of independent chains that a function runs. Twelve chains are enough to hide the latency of an instruction.
const CHAINS: usize = 12;

/// Defines a function that runs `steps` steps (at least one). A step runs the given instructions one time for each of
/// the twelve accumulators; `\\i` is the number of the accumulator. The operands are registers 14 and 15, which are
/// zero like the accumulators. Register 13 may hold an intermediate value.
macro_rules! chain {
    ($(#[$attribute:meta])* $name:ident: $($instruction:literal),*) => {
        $(#[$attribute])*
        unsafe fn $name(steps: usize) {
            // SAFETY: the assembly changes only the declared registers. The caller guarantees that the processor has
            // the instruction set.
            unsafe {
                asm!(
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15",
                    "vxorps ymm\\i, ymm\\i, ymm\\i",
                    ".endr",
                    "2:",
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
                    $($instruction,)*
                    ".endr",
                    "dec {steps}",
                    "jnz 2b",
                    "vzeroupper",
                    steps = inout(reg) steps.max(1) => _,
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                    out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                    out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

chain!(
    /// Runs 32 multiply-adds of bytes per chain and step.
    ///
    /// # Safety
    /// The processor has AVX2.
    pairs_avx2: "vpmaddubsw ymm13, ymm14, ymm15", "vpmaddwd ymm13, ymm13, ymm14", "vpaddd ymm\\i, ymm\\i, ymm13"
);
chain!(
    /// Runs 32 multiply-adds of bytes per chain and step.
    ///
    /// # Safety
    /// The processor has AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    quads_256: "{{vex}} vpdpbusd ymm\\i, ymm14, ymm15"
);
chain!(
    /// Runs 64 multiply-adds of bytes per chain and step.
    ///
    /// # Safety
    /// The processor has AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    quads_512: "vpdpbusd zmm\\i, zmm14, zmm15"
);
chain!(
    /// Runs eight multiply-adds of `f32` per chain and step.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA.
    floats_avx2: "vfmadd231ps ymm\\i, ymm14, ymm15"
);
chain!(
    /// Runs sixteen multiply-adds of `f32` per chain and step.
    ///
    /// # Safety
    /// The processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    floats_512: "vfmadd231ps zmm\\i, zmm14, zmm15"
);

/// The chain of 8-bit integer products with AVX2: `vpmaddubsw` and `vpmaddwd`.
pub(super) const AVX2_INTEGERS: Chain = Chain { multiply_adds: 32 * CHAINS, run: pairs_avx2 };
/// The chain of 8-bit integer products with AVX-VNNI: `vpdpbusd` on vectors of 32 bytes.
pub(super) const AVX_VNNI_INTEGERS: Chain = Chain { multiply_adds: 32 * CHAINS, run: quads_256 };
/// The chain of 8-bit integer products with AVX-512: `vpdpbusd` on vectors of 64 bytes.
pub(super) const AVX512_INTEGERS: Chain = Chain { multiply_adds: 64 * CHAINS, run: quads_512 };
/// The chain of 8-bit integer products with AMX: `tdpbssd`.
pub(super) const AMX_INTEGERS: Chain =
    Chain { multiply_adds: 16 * 16 * 64 * TILE_ACCUMULATORS / TILE_STEP_COST, run: tiles };
/// The chain of `f32` products with AVX2: `vfmadd` on vectors of eight floats.
pub(super) const AVX2_FLOATS: Chain = Chain { multiply_adds: 8 * CHAINS, run: floats_avx2 };
/// The chain of `f32` products with AVX-512: `vfmadd` on vectors of sixteen floats.
pub(super) const AVX512_FLOATS: Chain = Chain { multiply_adds: 16 * CHAINS, run: floats_512 };
