//! `kvant eval`: measures perplexity, and KL divergence from a reference.

use crate::arguments::{Common, Eval};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output};
use kvant::eval::Quality;
use kvant::{Evaluate, Model, read_text};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Eval) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let reference = arguments.reference.as_ref().map(|path| Model::open(path)).transpose()?;
    let text = read_text(&arguments.text)?;
    let job = Evaluate {
        reference: reference.as_ref(),
        context: arguments.contexts.ctx,
        contexts: arguments.contexts.chunks,
        arithmetic: arguments.activations,
        kv: arguments.kv,
        ..Evaluate::new(&model, &text)
    };
    let quality = job.run(&machine::backend(common)?, &Bar::new(common))?;
    output::show(common, &quality, print)
}

fn print(quality: &Quality) -> Result<(), Failure> {
    output::line(&format!("tokens scored   {}", quality.tokens_scored))?;
    output::line(&format!("perplexity      {:.4} ± {:.4}", quality.ppl, quality.ppl_se))?;
    let (Some(mean), Some(error)) = (quality.kld_mean, quality.kld_se) else { return Ok(()) };
    output::line(&format!("mean KLD        {mean:.6} ± {error:.6}"))?;
    let lines = [
        ("median KLD", quality.kld_p50),
        ("99 % KLD", quality.kld_p99),
        ("largest KLD", quality.kld_max),
        ("equal top-1", quality.top1_agreement),
        ("KLD as run", quality.kld_mean_as_run),
        ("top-1 as run", quality.top1_agreement_as_run),
        ("rms Δp", quality.delta_p_rms),
        ("perplexity ratio", quality.ppl_ratio),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            output::line(&format!("{name:<16}{value:.6}"))?;
        }
    }
    Ok(())
}
