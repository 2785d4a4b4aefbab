//! `kvant eval`: measures perplexity and KL divergence from a reference, or compares vectors of texts.

use crate::arguments::{Common, Eval};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output};
use kvant::eval::Quality;
use kvant::{Evaluate, EvaluateVectors, Model, VectorQuality, lines, read_text};
use std::process::ExitCode;

/// The result, by the kind of the model.
#[derive(serde::Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Measured {
    Text(Quality),
    Vectors(VectorQuality),
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Eval) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let reference = arguments.reference.as_ref().map(|path| Model::open(path)).transpose()?;
    let text = read_text(&arguments.text)?;
    if model.gives_vectors() {
        let Some(reference) = &reference else {
            let message = "a model for vectors of texts is compared with its --reference";
            return Err(Failure::Usage(message.to_owned()));
        };
        let mut texts = lines(&text);
        texts.truncate(arguments.contexts.chunks.unwrap_or(usize::MAX));
        let job =
            EvaluateVectors { model: &model, reference, texts: &texts, arithmetic: arguments.activations };
        let quality = job.run(&machine::backend(common)?, &Bar::new(common))?;
        return output::show(common, &Measured::Vectors(quality), print);
    }
    let job = Evaluate {
        reference: reference.as_ref(),
        context: arguments.contexts.ctx,
        contexts: arguments.contexts.chunks,
        arithmetic: arguments.activations,
        kv: arguments.kv,
        ..Evaluate::new(&model, &text)
    };
    let quality = job.run(&machine::backend(common)?, &Bar::new(common))?;
    output::show(common, &Measured::Text(quality), print)
}

fn print(measured: &Measured) -> Result<(), Failure> {
    match measured {
        Measured::Text(quality) => print_text(quality),
        Measured::Vectors(quality) => print_vectors(quality),
    }
}

fn print_vectors(quality: &VectorQuality) -> Result<(), Failure> {
    output::line(&format!("texts           {} (vectors of {})", quality.texts, quality.dimension))?;
    output::line(&format!("mean cosine     {:.6}", quality.cosine_mean))?;
    output::line(&format!("smallest cosine {:.6}", quality.cosine_min))?;
    if let Some(share) = quality.neighbour_agreement {
        output::line(&format!("equal neighbour {share:.6}"))?;
    }
    match quality.other_ids {
        0 => Ok(()),
        count => output::line(&format!("other ids       {count} texts; the reference's ids are used")),
    }
}

fn print_text(quality: &Quality) -> Result<(), Failure> {
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
