//! `kvant schema`, `completions` and `man`: print descriptions of the program.

use super::{eval, serve, tokenize};
use crate::arguments::{Arguments, Completions, Schema};
use crate::failure::Failure;
use crate::output;
use clap::CommandFactory;
use schemars::schema_for;
use std::process::ExitCode;

/// Prints the JSON Schema of the output that a command prints with `--json`.
pub fn schema(arguments: &Schema) -> Result<ExitCode, Failure> {
    let schema = match arguments.command.as_str() {
        "quantize" => schema_for!(kvant::Quantized),
        "imatrix" => schema_for!(kvant::GatheredImportance),
        "eval" => schema_for!(eval::Measured),
        "compare" | "demo" => schema_for!(kvant::Compared),
        "run" => schema_for!(kvant::Generated),
        "serve" => schema_for!(serve::Started),
        "bench" => schema_for!(kvant::Benched),
        "doctor" => schema_for!(kvant::Machine),
        "convert" => schema_for!(kvant::Converted),
        "embed" => schema_for!(kvant::Embedded),
        "logits" => schema_for!(kvant::LogitsResult),
        "tokenize" => schema_for!(tokenize::Tokenized),
        "inspect" => schema_for!(kvant::Inspected),
        other => return Err(Failure::Usage(format!("`{other}` prints no JSON in this version"))),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(|e| Failure::Fault(e.to_string()))?;
    output::line(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a completion script for a shell.
pub fn completions(arguments: &Completions) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "kvant", &mut text);
    output::line(String::from_utf8_lossy(&text).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page.
pub fn man() -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut text).map_err(Failure::stdout)?;
    output::line(String::from_utf8_lossy(&text).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
