//! Independent chains of instructions in assembly, so that the compiler cannot remove them.

use super::amx_tiles::ConfiguredTiles;
use crate::cpu::instruction_set::Chain;
use std::arch::asm;

/// Number of independent accumulator tiles.
const TILE_ACCUMULATORS: usize = 4;
/// A tile step takes about this many times as long as a step of the other chains, so fewer tile steps are run.
const TILE_STEP_COST: usize = 16;

/// Runs 16 × 16 × 64 multiply-adds of bytes per accumulator tile, once per [`TILE_STEP_COST`] steps.
///
/// # Safety
/// The processor has AMX.
unsafe fn tiles(steps: usize) {
    // SAFETY: the caller guarantees AMX.
    let _tiles = unsafe { ConfiguredTiles::new(&[(16, 64); 6]) };
    let steps = steps / TILE_STEP_COST;
    // SAFETY: the caller guarantees AMX, tiles are configured, and nothing else is changed.
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

/// Number of independent chains: enough to hide the latency of a step.
const CHAINS: usize = 12;

/// Defines a function that runs some instructions for each of twelve accumulators (`\\i`) per step. The operands are
/// registers 14 and 15, which are zero like the accumulators; register 13 may hold an intermediate value.
macro_rules! chain {
    ($(#[$attribute:meta])* $name:ident: $($instruction:literal),*) => {
        $(#[$attribute])*
        unsafe fn $name(steps: usize) {
            // SAFETY: only registers are changed, and the caller guarantees the features.
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
    /// 32 multiply-adds of bytes per chain and step.
    ///
    /// # Safety
    /// The processor has AVX2.
    pairs_avx2: "vpmaddubsw ymm13, ymm14, ymm15", "vpmaddwd ymm13, ymm13, ymm14", "vpaddd ymm\\i, ymm\\i, ymm13"
);
chain!(
    /// 32 multiply-adds of bytes per chain and step.
    ///
    /// # Safety
    /// The processor has AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    quads_256: "{{vex}} vpdpbusd ymm\\i, ymm14, ymm15"
);
chain!(
    /// 64 multiply-adds of bytes per chain and step.
    ///
    /// # Safety
    /// The processor has AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    quads_512: "vpdpbusd zmm\\i, zmm14, zmm15"
);
chain!(
    /// Eight multiply-adds of `f32` per chain and step.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA.
    floats_avx2: "vfmadd231ps ymm\\i, ymm14, ymm15"
);
chain!(
    /// Sixteen multiply-adds of `f32` per chain and step.
    ///
    /// # Safety
    /// The processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    floats_512: "vfmadd231ps zmm\\i, zmm14, zmm15"
);

/// `vpmaddubsw` and `vpmaddwd`.
pub(super) const AVX2_INTEGERS: Chain = Chain { multiply_adds: 32 * CHAINS, run: pairs_avx2 };
/// `vpdpbusd` on vectors of 32 bytes.
pub(super) const AVX_VNNI_INTEGERS: Chain = Chain { multiply_adds: 32 * CHAINS, run: quads_256 };
/// `vpdpbusd` on vectors of 64 bytes.
pub(super) const AVX512_INTEGERS: Chain = Chain { multiply_adds: 64 * CHAINS, run: quads_512 };
/// `tdpbssd`.
pub(super) const AMX_INTEGERS: Chain =
    Chain { multiply_adds: 16 * 16 * 64 * TILE_ACCUMULATORS / TILE_STEP_COST, run: tiles };
/// `vfmadd` on vectors of eight floats.
pub(super) const AVX2_FLOATS: Chain = Chain { multiply_adds: 8 * CHAINS, run: floats_avx2 };
/// `vfmadd` on vectors of sixteen floats.
pub(super) const AVX512_FLOATS: Chain = Chain { multiply_adds: 16 * CHAINS, run: floats_512 };
