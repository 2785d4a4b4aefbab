//! `kvant doctor`: this processor, what it could give, and the kernel that each format uses on it.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::{open, output};
use kvant::core::format;
use kvant::kernels::{Isa, Probe, features, kernel};
use serde::Serialize;
use std::process::ExitCode;

/// Rounds of each probe; the median counts.
const ROUNDS: usize = 5;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Examined {
    cpu: Cpu,
    /// Bytes read a second by all threads, in 10⁹.
    bandwidth_gbps: f64,
    /// Multiply-adds of integers of eight bits a second by all threads, in 10⁹.
    int8_gmacs: f64,
    /// Multiply-adds of numbers a second by all threads, in 10⁹.
    f32_gmacs: f64,
    kernels: Vec<Kernel>,
}

#[derive(Serialize, schemars::JsonSchema)]
struct Cpu {
    name: String,
    architecture: &'static str,
    physical_cores: usize,
    logical_cores: usize,
    threads: usize,
    features: Vec<&'static str>,
    /// Instruction sets that kvant has kernels for and this processor has, the slowest first.
    isas: Vec<&'static str>,
    isa: &'static str,
}

#[derive(Serialize, schemars::JsonSchema)]
struct Kernel {
    format: &'static str,
    kernel: String,
}

/// Runs the command.
pub fn run(common: &Common) -> Result<ExitCode, Failure> {
    let backend = open::fast(open::backend(common)?);
    let probe = Probe::new();
    let median = |measure: &dyn Fn() -> f64| {
        let mut all: Vec<f64> = (0..ROUNDS).map(|_| measure()).collect();
        all.sort_by(f64::total_cmp);
        all[ROUNDS / 2] / 1e9
    };
    let examined = Examined {
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
        bandwidth_gbps: median(&|| probe.bandwidth(&backend)),
        int8_gmacs: median(&|| probe.integer_peak(&backend)),
        f32_gmacs: median(&|| probe.float_peak(&backend)),
        kernels: format::FORMATS
            .iter()
            .map(|&format| Kernel { format: format.name(), kernel: kernel(&backend, format) })
            .collect(),
    };
    if common.json {
        output::json(&examined)?;
    } else {
        print(&examined)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the system calls the processor.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = ["model name", "Model", "Hardware"];
    let named = names.iter().find_map(|name| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    named.unwrap_or_else(|| "unknown".to_owned())
}

fn print(examined: &Examined) -> Result<(), Failure> {
    let cpu = &examined.cpu;
    output::line(&format!("processor        {} ({})", cpu.name, cpu.architecture))?;
    output::line(&format!(
        "cores            {} physical, {} logical; {} threads in use",
        cpu.physical_cores, cpu.logical_cores, cpu.threads
    ))?;
    output::line(&format!("features         {}", cpu.features.join(" ")))?;
    output::line(&format!("instruction set  {} (of {})", cpu.isa, cpu.isas.join(", ")))?;
    output::line(&format!("reads            {:.1} GB/s", examined.bandwidth_gbps))?;
    output::line(&format!("int8             {:.0} G multiply-adds/s", examined.int8_gmacs))?;
    output::line(&format!("f32              {:.0} G multiply-adds/s", examined.f32_gmacs))?;
    for kernel in &examined.kernels {
        output::line(&format!("{:<16} {}", kernel.format, kernel.kernel))?;
    }
    Ok(())
}
