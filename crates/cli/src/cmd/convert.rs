//! `kvant convert`: writes the same values into another container.

use crate::arguments::{Common, Convert};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output, terminal};
use kvant::Model;
use kvant::report::size;
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Convert) -> Result<ExitCode, Failure> {
    if arguments.to.as_ref().is_some_and(|to| to != "gguf") {
        return Err(Failure::Usage("--to: only gguf is built yet".into()));
    }
    let model = Model::open(&arguments.input)?;
    let job = kvant::Convert {
        any_name: arguments.to.is_some(),
        force: arguments.file.force,
        ..kvant::Convert::new(&model, &arguments.file.output)
    };
    let result =
        if arguments.dry_run { job.plan()? } else { job.run(&machine::start(common)?, &Bar::new(common))? };
    for warning in &result.warnings {
        terminal::say(format_args!("note: {warning}"));
    }
    output::show(common, &result, |result| {
        let (name, size) = (arguments.file.output.display(), size(result.bytes_out));
        output::line(&format!("{name}: {} tensors, {size}", result.tensors))
    })
}
