//! What this machine could give at most: bytes read and multiply-adds a second. What kernels reach is told as a share.
//!
//! Probes are short and run between measurements, since neighbours on shared machines move the limits within seconds.
//! Each keeps all threads of a backend busy; the instruction is the one that the backend's integer kernels use.

use crate::Backend;
#[cfg(target_arch = "x86_64")]
use crate::Isa;
use crate::region::Region;
use std::hint::black_box;
use std::time::Instant;

/// Bytes of [`Probe`]'s memory: more than any cache near a core.
const BYTES: usize = 256 << 20;
/// Bytes that a task of the bandwidth probe reads.
const PART: usize = 4 << 20;
/// Rounds of a chain; some milliseconds.
const STEPS: usize = 400_000;

/// Limits of the machine that a backend runs on.
pub struct Probe {
    memory: Region,
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe {
    /// Takes the memory that is read: a quarter of a GiB.
    pub fn new() -> Self {
        let mut memory = Region::new(BYTES);
        memory.bytes_mut().fill(1);
        Self { memory }
    }

    /// Bytes a second that all threads read together.
    pub fn bandwidth(&self, backend: &Backend) -> f64 {
        let bytes = self.memory.bytes();
        let begin = Instant::now();
        backend.pool().run(bytes.len() / PART, &|task| {
            black_box((backend.operations().read)(&bytes[task * PART..][..PART]));
        });
        bytes.len() as f64 / begin.elapsed().as_secs_f64()
    }

    /// Multiply-adds of integers of eight bits a second, all threads, nothing read.
    pub fn integer_peak(&self, backend: &Backend) -> f64 {
        let each = match backend.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => 32 * chains::COUNT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 64 * chains::COUNT,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => 16 * 16 * 64 * chains::TILES / chains::FEWER,
            _ => 16 * 16,
        };
        rate(backend, each, || match backend.isa() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the backend's instruction set was detected.
            Isa::Avx2 => unsafe { chains::pairs_avx2(STEPS) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::AvxVnni => unsafe { chains::quads_256(STEPS) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { chains::quads_512(STEPS) },
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => chains::tiles(STEPS / chains::FEWER),
            _ => plain_integers(STEPS),
        })
    }

    /// Multiply-adds of `f32` a second, all threads, nothing read.
    pub fn float_peak(&self, backend: &Backend) -> f64 {
        let each = match backend.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => 8 * chains::COUNT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => 16 * chains::COUNT,
            _ => 16 * 4,
        };
        rate(backend, each, || match backend.isa() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 | Isa::AvxVnni => unsafe { chains::floats_avx2(STEPS) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe { chains::floats_512(STEPS) },
            _ => plain_floats(STEPS),
        })
    }
}

/// Of a chain that makes `each` multiply-adds a step.
fn rate(backend: &Backend, each: usize, chain: impl Fn() + Sync) -> f64 {
    let threads = backend.threads();
    let begin = Instant::now();
    backend.pool().run(threads, &|_| chain());
    (threads * STEPS * each) as f64 / begin.elapsed().as_secs_f64()
}

fn plain_integers(steps: usize) {
    let (a, mut sums) = (black_box([3i16; 16]), [[1i32; 16]; 16]);
    for _ in 0..steps {
        for sums in &mut sums {
            sums.iter_mut().zip(a).for_each(|(sum, a)| *sum = sum.wrapping_add(i32::from(a) * (*sum & 127)));
        }
    }
    black_box(sums);
}

fn plain_floats(steps: usize) {
    let (a, mut sums) = (black_box(0.999_9f32), [[1.0f32; 4]; 16]);
    for _ in 0..steps {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * a + 1e-4;
        }
    }
    black_box(sums);
}

/// Independent chains, written out so that no compiler shortens them.
#[cfg(target_arch = "x86_64")]
mod chains {
    use crate::cpu::tiles::Configured;
    use crate::cpu::tokens::Amx;
    use std::arch::asm;

    /// Sums of tiles side by side.
    pub const TILES: usize = 4;
    /// Steps of tiles take so many times as long as others.
    pub const FEWER: usize = 16;

    /// 16 × 16 × 64 multiply-adds of bytes a sum and step. Panics unless the processor has AMX.
    pub fn tiles(steps: usize) {
        let token = Amx::detect().expect("the backend's instruction set was detected");
        let _configured = Configured::new(token, &[(16, 64); 6]);
        // SAFETY: the token proves the feature, tiles are configured, and nothing else is touched.
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

    /// Chains side by side: enough to hide what one step takes.
    pub const COUNT: usize = 12;

    /// A function that runs some instructions so many times for each of twelve sums (`\\i`), on registers 14 and 15, which are
    /// zero like the sums; 13 may hold what is between.
    macro_rules! chain {
        ($(#[$attribute:meta])* $name:ident: $($instruction:literal),*) => {
            $(#[$attribute])*
            pub unsafe fn $name(steps: usize) {
                // SAFETY: registers alone are touched, and the caller has the features.
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
        /// 32 multiply-adds of bytes a chain and step.
        ///
        /// # Safety
        /// The processor has AVX2.
        pairs_avx2: "vpmaddubsw ymm13, ymm14, ymm15", "vpmaddwd ymm13, ymm13, ymm14", "vpaddd ymm\\i, ymm\\i, ymm13"
    );
    chain!(
        /// 32 multiply-adds of bytes a chain and step.
        ///
        /// # Safety
        /// The processor has AVX-VNNI.
        #[target_feature(enable = "avx2,avxvnni")]
        quads_256: "{{vex}} vpdpbusd ymm\\i, ymm14, ymm15"
    );
    chain!(
        /// 64 multiply-adds of bytes a chain and step.
        ///
        /// # Safety
        /// The processor has AVX-512 F and VNNI.
        #[target_feature(enable = "avx512f,avx512vnni")]
        quads_512: "vpdpbusd zmm\\i, zmm14, zmm15"
    );
    chain!(
        /// Eight multiply-adds of `f32` a chain and step.
        ///
        /// # Safety
        /// The processor has AVX2 and FMA.
        floats_avx2: "vfmadd231ps ymm\\i, ymm14, ymm15"
    );
    chain!(
        /// Sixteen multiply-adds of `f32` a chain and step.
        ///
        /// # Safety
        /// The processor has AVX-512 F.
        #[target_feature(enable = "avx512f")]
        floats_512: "vfmadd231ps zmm\\i, zmm14, zmm15"
    );
}
