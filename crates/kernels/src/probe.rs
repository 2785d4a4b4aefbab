//! Probes measure the limits of the machine: memory bandwidth and peak multiply-adds per second. Benchmarks report the
//! speed of kernels as a share of these limits.
//!
//! Probes are short and run between measurements. The reason is that other users of a shared machine change the limits
//! within seconds. Each probe keeps all threads of a backend busy. The peak probes use the same multiply-add
//! instructions as the kernels of the backend.

use crate::Backend;
use crate::huge_pages::HugePages;
use std::hint::black_box;
use std::time::Instant;

/// Bytes that the bandwidth probe reads. They do not fit into the caches of the cores.
const BYTES: usize = 256 << 20;
/// Number of bytes that a task of the bandwidth probe reads.
const PART: usize = 4 << 20;
/// Number of steps of a chain of multiply-adds. The chain runs for some milliseconds.
const STEPS: usize = 400_000;

/// Measures the limits of the machine, and holds the memory for the bandwidth probe.
pub struct Probe {
    memory: HugePages,
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe {
    /// Allocates and fills 256 MiB of memory for the bandwidth probe.
    pub fn new() -> Self {
        let mut memory = HugePages::new(BYTES);
        memory.bytes_mut().fill(1);
        Self { memory }
    }

    /// Measures the read bandwidth of all threads together, in bytes per second.
    pub fn bandwidth(&self, backend: &Backend) -> f64 {
        let bytes = self.memory.bytes();
        let begin = Instant::now();
        backend.pool().run(bytes.len() / PART, &|task| {
            black_box(backend.cpu().read_lines(&bytes[task * PART..][..PART]));
        });
        bytes.len() as f64 / begin.elapsed().as_secs_f64()
    }

    /// Measures the 8-bit integer multiply-adds per second of all threads, without memory reads.
    pub fn integer_peak(&self, backend: &Backend) -> f64 {
        let cpu = backend.cpu();
        rate(backend, cpu.integer_multiply_adds(), || cpu.run_integer_chain(STEPS))
    }

    /// Measures the `f32` multiply-adds per second of all threads, without memory reads.
    pub fn float_peak(&self, backend: &Backend) -> f64 {
        let cpu = backend.cpu();
        rate(backend, cpu.float_multiply_adds(), || cpu.run_float_chain(STEPS))
    }
}

/// Runs a chain on all threads and returns its multiply-adds per second. A step of the chain has `adds_per_step`
/// multiply-adds.
fn rate(backend: &Backend, adds_per_step: usize, chain: impl Fn() + Sync) -> f64 {
    let threads = backend.threads();
    let begin = Instant::now();
    backend.pool().run(threads, &|_| chain());
    (threads * STEPS * adds_per_step) as f64 / begin.elapsed().as_secs_f64()
}
