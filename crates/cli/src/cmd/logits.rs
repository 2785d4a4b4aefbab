//! `kvant logits`: computes all logits of a prompt, so that the logits can be compared with another engine's logits.

use crate::arguments::{Common, Logits};
use crate::failure::Failure;
use crate::{machine, output};
use kvant::io::OutputFile;
use kvant::model::Special;
use kvant::{LogitsResult, Model, RunSettings};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Logits) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let file = arguments.npy.as_deref();
    OutputFile::check_all(file.as_slice(), &[&path], arguments.force)?;
    let model = Model::open(&path)?;
    let settings = RunSettings { arithmetic: Some(arguments.activations), kv: arguments.kv };
    let network = model.load(machine::backend(common)?, settings)?;
    let tokens = match &arguments.prompt {
        None => arguments.tokens.clone(),
        Some(prompt) => {
            let special = Special { add: true, parse: true };
            model.tokenizer()?.encode(prompt, special).map_err(kvant::Error::from)?
        }
    };
    let result = kvant::Logits { network: &network, tokens, stepwise: arguments.stepwise }.run()?;
    // The result is printed first, so that it is not lost if the file cannot be written. The file is written even if
    // printing fails because the pipe is closed.
    let printed = output::show(common, &result, print);
    if let Some(file) = file {
        result.write_npy(file, arguments.force)?;
    }
    printed
}

fn print(result: &LogitsResult) -> Result<(), Failure> {
    output::line(&format!("{} positions × {} tokens", result.shape[0], result.shape[1]))?;
    result.top.iter().try_for_each(|top| output::line(&format!("{:>8}  {:.6}", top.id, top.logit)))
}
