//! `kvant convert`: another container, the same values.

use super::quantize::check_output;
use crate::arguments::{Common, Container, Convert};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{open, output, terminal};
use serde::Serialize;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Converted {
    bytes_in: u64,
    bytes_out: u64,
    tensors: usize,
    /// Properties of the input that the output does not express.
    warnings: Vec<String>,
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Convert) -> Result<ExitCode, Failure> {
    match arguments.to {
        None => check_output(&arguments.output)?,
        Some(Container::Gguf) => {}
        Some(_) => return Err(Failure::Usage("--to: only gguf is built yet".into())),
    }
    if !arguments.dry_run {
        output::check(&[&arguments.output], &[&arguments.input], arguments.force)?;
    }
    let opened = open::model(&arguments.input)?;
    let result = if arguments.dry_run {
        let bytes = opened.weights.checkpoint().tensors().iter().map(|t| t.bytes as u64).sum();
        let warnings = kvant::model::export::gguf_metadata_and_notes(&opened.weights)?.notes;
        let bytes_out = kvant::quant::converted_bytes(&opened.weights);
        Converted { bytes_in: bytes, bytes_out, tensors: opened.weights.entries().len(), warnings }
    } else {
        open::start_threads(common)?;
        let backend = open::backend(common)?;
        let bar = Bar::new(common, "convert");
        let (report, warnings) =
            kvant::quant::convert(&opened.weights, &arguments.output, arguments.force, &backend, &bar)?;
        Converted {
            bytes_in: report.bytes_in,
            bytes_out: report.bytes_out,
            tensors: report.tensors.len(),
            warnings,
        }
    };
    for warning in &result.warnings {
        terminal::say(format_args!("note: {warning}"));
    }
    if common.json {
        output::json(&result)?;
    } else {
        let (name, size) = (arguments.output.display(), output::size(result.bytes_out));
        output::line(&format!("{name}: {} tensors, {size}", result.tensors))?;
    }
    Ok(ExitCode::SUCCESS)
}
