//! What this machine could give at most: bytes read and multiply-adds a second. What kernels reach is told as a share.
//!
//! Probes are short and run between measurements, since neighbours on shared machines move the limits within seconds.
//! Each keeps all threads of a backend busy; the instruction is the one that the backend's integer kernels use.

use crate::Backend;
use crate::huge_pages::HugePages;
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
    memory: HugePages,
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe {
    /// Takes the memory that is read: a quarter of a GiB.
    pub fn new() -> Self {
        let mut memory = HugePages::new(BYTES);
        memory.bytes_mut().fill(1);
        Self { memory }
    }

    /// Bytes a second that all threads read together.
    pub fn bandwidth(&self, backend: &Backend) -> f64 {
        let bytes = self.memory.bytes();
        let begin = Instant::now();
        backend.pool().run(bytes.len() / PART, &|task| {
            black_box(backend.cpu().read_lines(&bytes[task * PART..][..PART]));
        });
        bytes.len() as f64 / begin.elapsed().as_secs_f64()
    }

    /// Multiply-adds of integers of eight bits a second, all threads, nothing read.
    pub fn integer_peak(&self, backend: &Backend) -> f64 {
        let cpu = backend.cpu();
        rate(backend, cpu.integer_multiply_adds(), || cpu.run_integer_chain(STEPS))
    }

    /// Multiply-adds of `f32` a second, all threads, nothing read.
    pub fn float_peak(&self, backend: &Backend) -> f64 {
        let cpu = backend.cpu();
        rate(backend, cpu.float_multiply_adds(), || cpu.run_float_chain(STEPS))
    }
}

/// Of a chain that makes `each` multiply-adds a step.
fn rate(backend: &Backend, each: usize, chain: impl Fn() + Sync) -> f64 {
    let threads = backend.threads();
    let begin = Instant::now();
    backend.pool().run(threads, &|_| chain());
    (threads * STEPS * each) as f64 / begin.elapsed().as_secs_f64()
}
