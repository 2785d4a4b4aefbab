//! `kvant bench`: measures tokens per second, absolute and as a share of the machine's limits.

use crate::arguments::{Bench, Common};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output};
use kvant::Model;
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Bench) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let network = model.load(machine::backend(common)?, arguments.running.settings())?;
    let job = kvant::Bench {
        network: &network,
        prompt: arguments.prompt,
        answer: arguments.count,
        depths: arguments.depth.clone(),
        parallel: arguments.parallel.clone(),
        rounds: arguments.repetitions.into(),
    };
    output::show(common, &job.run(&Bar::new(common))?, |benched| output::line(&benched.table()))
}
