//! The program `kvant`. It reads arguments, prints results on stdout, and prints progress and errors on stderr. The
//! crate `kvant` does all other work.

// All output must be printed by `terminal`, which escapes control characters and does not panic.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod cmd;
mod failure;
mod machine;
mod output;
mod running_flags;
mod sampling_flags;
mod serve_flags;
mod signals;
mod terminal;
mod turns;
mod values;

use arguments::{Arguments, Command};
use failure::Failure;
use std::process::ExitCode;

/// An allocator that ends the program with a message and an exit status if no memory is left.
#[global_allocator]
static MEMORY: kvant::io::Allocator = kvant::io::Allocator;

fn main() -> ExitCode {
    terminal::tell_panics();
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(status) => return ExitCode::from(status),
    };
    signals::catch(arguments.command.steps());
    kvant::io::guard_mapped_files();
    let common = &arguments.common;
    let result = match &arguments.command {
        Command::Quantize(a) => cmd::quantize::run(common, a),
        Command::Imatrix(a) => cmd::imatrix::run(common, a),
        Command::Eval(a) => cmd::eval::run(common, a),
        Command::Compare(a) => cmd::compare::run(common, a),
        Command::Demo(a) => cmd::compare::demo(common, a),
        Command::Run(a) => cmd::run::run(common, a),
        Command::Chat(a) => cmd::chat::run(common, a),
        Command::Serve(a) => cmd::serve::run(common, a),
        Command::Bench(a) => cmd::bench::run(common, a),
        Command::Doctor => cmd::doctor::run(common),
        Command::Convert(a) => cmd::convert::run(common, a),
        Command::Logits(a) => cmd::logits::run(common, a),
        Command::Embed(a) => cmd::embed::run(common, a),
        Command::Tokenize(a) => cmd::tokenize::run(common, a),
        Command::Inspect(a) => cmd::inspect::run(common, a),
        Command::Schema(a) => cmd::about::schema(a),
        Command::Completions(a) => cmd::about::completions(a),
        Command::Man => cmd::about::man(),
        Command::Unbuilt(words) => Err(Failure::unbuilt(words)),
    };
    result.unwrap_or_else(|failure| ExitCode::from(failure.tell()))
}
