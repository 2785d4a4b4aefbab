//! The program `kvant`: arguments in, results on stdout, progress and errors on stderr. No logic of its own.

mod arguments;
mod calibration;
mod cmd;
mod demo_model;
mod failure;
mod noise;
mod open;
mod output;

use arguments::{Arguments, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            return end(message
                .print()
                .map_err(Failure::stdout)
                .map(|()| ExitCode::from(message.exit_code() as u8)));
        }
    };
    open::catch_interrupts();
    let common = &arguments.common;
    let result = match &arguments.command {
        Command::Quantize(a) => cmd::quantize::run(common, a),
        Command::Imatrix(a) => cmd::imatrix::run(common, a),
        Command::Eval(a) => cmd::eval::run(common, a),
        Command::Compare(a) => cmd::compare::run(common, a),
        Command::Demo(a) => cmd::compare::demo(common, a),
        Command::Run(a) => cmd::run::run(common, a),
        Command::Chat(a) => cmd::chat::run(common, a),
        Command::Bench(a) => cmd::bench::run(common, a),
        Command::Doctor => cmd::doctor::run(common),
        Command::Convert(a) => cmd::convert::run(common, a),
        Command::Logits(a) => cmd::logits::run(common, a),
        Command::Tokenize(a) => cmd::tokenize::run(common, a),
        Command::Inspect(a) => cmd::inspect::run(common, a),
        Command::Schema(a) => cmd::about::schema(a),
        Command::Completions(a) => cmd::about::completions(a),
        Command::Man => cmd::about::man(),
        Command::Unbuilt(words) => Err(Failure::unbuilt(words)),
    };
    end(result)
}

/// The exit status of a result. A failure is printed, but for a closed pipe.
fn end(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        if !matches!(failure, Failure::ClosedPipe) {
            eprintln!("kvant: {failure}");
        }
        ExitCode::from(failure.status())
    })
}
