//! The job `doctor`: describes this processor, its peak speeds, and the kernel that each format uses on it.

use kvant_core::format;
use kvant_kernels::{Backend, Isa, Probe, features, kernel};
use serde::Serialize;

/// Number of rounds of each measurement. The result is the median of all rounds.
const ROUNDS: usize = 5;

/// The description of a machine.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Machine {
    /// The machine's processor.
    pub cpu: Cpu,
    /// Read bandwidth of all threads, in 10⁹ bytes per second.
    pub bandwidth_gbps: f64,
    /// 8-bit integer multiply-adds of all threads, in 10⁹ per second.
    pub int8_gmacs: f64,
    /// f32 multiply-adds of all threads, in 10⁹ per second.
    pub f32_gmacs: f64,
    /// The kernel of each format.
    pub kernels: Vec<FormatKernel>,
}

/// A processor.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Cpu {
    /// The processor's name, as the operating system reports it.
    pub name: String,
    /// The processor's architecture.
    pub architecture: &'static str,
    /// Number of physical cores.
    pub physical_cores: usize,
    /// Number of logical processors.
    pub logical_cores: usize,
    /// Number of threads that the backend uses.
    pub threads: usize,
    /// Processor features that the architecture does not guarantee.
    pub features: Vec<&'static str>,
    /// Instruction sets of this processor for which kvant has kernels, from the slowest to the fastest.
    pub isas: Vec<&'static str>,
    /// The instruction set that the backend uses.
    pub isa: &'static str,
}

/// The kernel of one format.
#[derive(Serialize, schemars::JsonSchema)]
pub struct FormatKernel {
    /// The format.
    pub format: &'static str,
    /// A description of the kernel.
    pub kernel: String,
}

impl Machine {
    /// Measures this machine with the threads and the instruction set of `backend`. Takes one or two seconds.
    pub fn examine(backend: &Backend) -> Self {
        let probe = Probe::new();
        let median = |measure: &dyn Fn() -> f64| {
            let mut all: Vec<f64> = (0..ROUNDS).map(|_| measure()).collect();
            all.sort_by(f64::total_cmp);
            all[ROUNDS / 2] / 1e9
        };
        Self {
            cpu: Cpu {
                name: processor(),
                architecture: std::env::consts::ARCH,
                physical_cores: num_cpus::get_physical(),
                logical_cores: num_cpus::get(),
                threads: backend.threads(),
                features: features(),
                isas: Isa::available().into_iter().map(Isa::name).collect(),
                isa: backend.isa().name(),
            },
            bandwidth_gbps: median(&|| probe.bandwidth(backend)),
            int8_gmacs: median(&|| probe.integer_peak(backend)),
            f32_gmacs: median(&|| probe.float_peak(backend)),
            kernels: format::FORMATS
                .iter()
                .map(|&format| FormatKernel { format: format.name(), kernel: kernel(backend, format) })
                .collect(),
        }
    }
}

/// Returns the processor's name in `/proc/cpuinfo`, or `unknown`.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = ["model name", "Model", "Hardware"];
    let named = names.iter().find_map(|name| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    named.unwrap_or_else(|| "unknown".to_owned())
}
