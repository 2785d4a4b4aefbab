//! `kvant inspect`: shows the content of a model file.

use crate::arguments::{Common, Inspect};
use crate::failure::Failure;
use crate::{output, terminal};
use kvant::Inspected;
use kvant::report::size;
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Inspect) -> Result<ExitCode, Failure> {
    let result = kvant::inspect(&arguments.file)?;
    for note in &result.notes {
        terminal::say(format_args!("note: {note}"));
    }
    output::show(common, &result, print)
}

fn print(result: &Inspected) -> Result<(), Failure> {
    for (key, value) in &result.metadata {
        output::line(&format!("{} = {}", terminal::name(key), shortened(&value.to_string())))?;
    }
    for t in &result.tensors {
        let name = terminal::name(&t.name);
        output::line(&format!("{name:<32} {:>8} {:>12}  {:?}", t.format, size(t.bytes), t.shape))?;
    }
    let total: u64 = result.tensors.iter().map(|t| t.bytes).sum();
    output::line(&format!("{} tensors, {} of tensor data", result.tensors.len(), size(total)))?;
    if result.card.as_object().is_some_and(|c| !c.is_empty()) {
        output::line(&format!("card: {}", serde_json::to_string_pretty(&result.card).unwrap_or_default()))?;
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    let cut: String = text.chars().take(160).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}
