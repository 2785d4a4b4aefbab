//! The job `doctor`: this processor, what it could give, and the kernel that each format uses on it.

use kvant_core::format;
use kvant_kernels::{Backend, Isa, Probe, features, kernel};
use serde::Serialize;

/// Rounds of each probe; the median counts.
const ROUNDS: usize = 5;

/// A machine.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Machine {
    /// Its processor.
    pub cpu: Cpu,
    /// Bytes read a second by all threads, in 10⁹.
    pub bandwidth_gbps: f64,
    /// Multiply-adds of integers of eight bits a second by all threads, in 10⁹.
    pub int8_gmacs: f64,
    /// Multiply-adds of numbers a second by all threads, in 10⁹.
    pub f32_gmacs: f64,
    /// The kernel of each format.
    pub kernels: Vec<FormatKernel>,
}

/// A processor.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Cpu {
    /// Its name, as the system has it.
    pub name: String,
    /// Its architecture.
    pub architecture: &'static str,
    /// Cores.
    pub physical_cores: usize,
    /// Processors that the system sees.
    pub logical_cores: usize,
    /// Threads that a backend uses.
    pub threads: usize,
    /// What it can do beyond its architecture's base.
    pub features: Vec<&'static str>,
    /// Instruction sets that kvant has kernels for and this processor has, the slowest first.
    pub isas: Vec<&'static str>,
    /// The one that a backend uses.
    pub isa: &'static str,
}

/// The kernel of one format.
#[derive(Serialize, schemars::JsonSchema)]
pub struct FormatKernel {
    /// The format.
    pub format: &'static str,
    /// The kernel.
    pub kernel: String,
}

impl Machine {
    /// Examines this machine as `backend` uses it; takes a second or two.
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

/// The system's name of the processor.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = ["model name", "Model", "Hardware"];
    let named = names.iter().find_map(|name| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    named.unwrap_or_else(|| "unknown".to_owned())
}
