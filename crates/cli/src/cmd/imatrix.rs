//! `kvant imatrix`: an importance matrix, gathered on text.

use crate::arguments::{Common, Imatrix};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{open, output};
use kvant::quant::gather_importance;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Gathered {
    tokens: usize,
    tensors: Vec<Gathering>,
}

/// One tensor's share of it.
#[derive(Serialize, schemars::JsonSchema)]
struct Gathering {
    name: String,
    columns: usize,
    mean_square: f64,
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Imatrix) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let inputs: Vec<&Path> = [&path].into_iter().chain(&arguments.text).map(PathBuf::as_path).collect();
    output::check(&[&arguments.output], &inputs, arguments.force)?;
    let opened = open::model(&path)?;
    let length = kvant::CALIBRATION_CONTEXT.min(opened.weights.spec().context);
    let most = arguments.chunks.map_or(usize::MAX, |n| n.saturating_mul(length));
    let tokenizer = open::tokenizer(opened.weights.checkpoint().meta(), &path)?;
    let texts = open::calibration_texts(&arguments.text)?;
    let calibration = open::calibration(&texts, most, None, &opened, &tokenizer)?;
    let bar = Bar::new(common, "imatrix");
    let importance = gather_importance(&opened.weights, &calibration, &open::backend(common)?, &bar)?;
    importance.write(&arguments.output, arguments.force)?;
    let tensors = importance.entries.iter().map(|(name, entry)| Gathering {
        name: name.clone(),
        columns: entry.sums.len(),
        mean_square: entry.sums.iter().map(|&s| f64::from(s)).sum::<f64>()
            / (entry.sums.len() as f64 * f64::from(entry.counts[0])),
    });
    let result = Gathered { tokens: calibration.tokens(), tensors: tensors.collect() };
    if common.json {
        output::json(&result)?;
    } else {
        let (output, count, tokens) = (arguments.output.display(), result.tensors.len(), result.tokens);
        output::line(&format!("{output}: {count} tensors on {tokens} tokens"))?;
    }
    Ok(ExitCode::SUCCESS)
}
