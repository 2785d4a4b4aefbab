//! `kvant imatrix`: gathers an importance matrix on text.

use crate::arguments::{Common, Imatrix};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output};
use kvant::{CalibrationText, GatherImportance, Model};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Imatrix) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let job = GatherImportance {
        texts: arguments.text.iter().map(|path| CalibrationText::at(path)).collect(),
        contexts: arguments.chunks,
        force: arguments.file.force,
        ..GatherImportance::new(&model, &arguments.file.output)
    };
    let gathered = job.run(&machine::backend(common)?, &Bar::new(common))?;
    output::show(common, &gathered, |gathered| {
        let (output, count) = (arguments.file.output.display(), gathered.tensors.len());
        output::line(&format!("{output}: {count} tensors on {} tokens", gathered.tokens))
    })
}
