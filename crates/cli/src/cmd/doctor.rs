//! `kvant doctor`: shows this processor, its peak speeds, and the kernel that each format uses on this processor.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::{machine, output};
use kvant::{Machine, fast};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common) -> Result<ExitCode, Failure> {
    output::show(common, &Machine::examine(&fast(machine::backend(common)?)), print)
}

fn print(examined: &Machine) -> Result<(), Failure> {
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
