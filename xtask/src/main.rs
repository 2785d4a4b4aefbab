//! Commands for developers, not shipped: `cargo xtask tidy`, `sbom`, `load`, `real`, `answers`, `fuzz`, `render`, `synth`
//! and `tokens`.

mod answers;
mod fuzz;
mod load;
mod real;
mod render;
mod sbom;
mod synth;
mod tidy;
mod tokens;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Crate arrows and file lengths
    Tidy,
    /// The crates in the program, as CycloneDX
    Sbom(sbom::Sbom),
    /// Requests to a server on this machine, and their times
    Load(load::Load),
    /// A published model, held against llama.cpp's recorded figures
    Real(real::Real),
    /// Greedy answers with rounded activations, held against those with exact ones
    Answers(answers::Answers),
    /// Hostile input for a bounded time
    Fuzz(fuzz::Fuzz),
    /// Chat templates with what they see, from stdin, as text: one JSON object a line
    Render,
    /// A model of random weights and a published one's shape
    Synth(synth::Synth),
    /// Token ids, held against llama.cpp's recorded ones; speed of tokenizers; ids of texts from stdin
    Tokens(tokens::Tokens),
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let faults = match Arguments::parse().command {
        Command::Tidy => tidy::run(&root),
        Command::Sbom(arguments) => sbom::run(&root, &arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Real(arguments) => real::run(&root, &arguments),
        Command::Answers(arguments) => answers::run(&root, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&root, &arguments),
        Command::Render => render::run(),
        Command::Synth(arguments) => synth::run(&arguments),
        Command::Tokens(arguments) => tokens::run(&root, &arguments),
    };
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
