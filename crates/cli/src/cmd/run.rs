//! `kvant run`: generates one answer to a raw prompt.

use crate::arguments::{Common, Run};
use crate::failure::Failure;
use crate::{machine, output, signals, terminal};
use kvant::{Generate, Model};
use std::process::ExitCode;

/// Prints a piece of an answer immediately. Returns false if printing fails or if the user pressed Ctrl-C.
pub fn emit(piece: &str) -> bool {
    terminal::print(piece).is_ok() && signals::interrupts() == 0
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Run) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let backend = machine::backend(common)?;
    let (network, tokenizer) = model.load_speaker(backend, arguments.running.settings())?;
    arguments.sampling.seed().say(common.quiet);
    let job = Generate {
        tokens: arguments.count,
        context: arguments.ctx,
        stop: arguments.stop.clone(),
        ..Generate::new(&network, &tokenizer, arguments.sampling.over(model.sampling()))
    };
    let mut hear = |piece: &str| if common.json { signals::interrupts() == 0 } else { emit(piece) };
    let generated = job.run(&arguments.prompt, &mut hear)?;
    output::show(common, &generated, |_| output::line(""))?;
    if signals::interrupts() > 0 {
        return Err(Failure::Interrupted);
    }
    Ok(ExitCode::SUCCESS)
}
