//! `kvant eval`: perplexity, and divergence from a reference.

use crate::arguments::{Activations, Common, Eval, Kv};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{open, output};
use kvant::eval::{Contexts, Judged, Quality, evaluate};
use kvant::model::{Special, Tokenizer, Transformer};
use std::path::PathBuf;
use std::process::ExitCode;

/// A text cut into contexts as llama-perplexity does.
pub fn contexts(
    tokenizer: &Tokenizer,
    text: &str,
    context: usize,
    limit: Option<usize>,
) -> Result<Contexts, Failure> {
    let tokens = tokenizer.encode(text, Special { add: true, parse: false })?;
    let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
    Ok(Contexts::new(&tokens, context, limit, bos)?)
}

/// Refuses contexts longer than the model's.
pub fn check_context(context: usize, transformer: &Transformer) -> Result<(), Failure> {
    let longest = transformer.spec().context;
    if context > longest {
        return Err(Failure::Usage(format!(
            "--ctx {context}: the model was made for at most {longest} tokens"
        )));
    }
    Ok(())
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Eval) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let (activations, kv) = (arguments.activations, arguments.kv);
    let exactly = Some(activations.unwrap_or(Activations::F32));
    let (opened, transformer) = open::transformer(common, &path, exactly, kv.unwrap_or(Kv::F32))?;
    check_context(arguments.ctx, &transformer)?;
    // What is measured may be as fast as it likes; what it is measured by stays exact.
    let exact = |path: &PathBuf| open::transformer(common, path, Some(Activations::F32), Kv::F32);
    let reference = arguments.reference.as_ref().map(exact).transpose()?;
    let text = open::text(&arguments.text)?;
    let own = open::tokenizer(opened.weights.checkpoint().meta(), &path)?;
    let tokenizer = match (&arguments.reference, &reference) {
        (Some(path), Some((theirs, _))) => {
            let theirs = open::tokenizer(theirs.weights.checkpoint().meta(), path)?;
            if let Some(difference) = theirs.difference(&own, &text)? {
                return Err(Failure::Fault(format!(
                    "{} and {} have different tokenizers; their logits don't belong to the same tokens: {difference}",
                    path.display(),
                    arguments.model.path().display(),
                )));
            }
            theirs
        }
        _ => own,
    };
    let contexts = contexts(&tokenizer, &text, arguments.ctx, arguments.chunks)?;
    // Where both flags are given, what is measured is what is run.
    let is_run = activations.is_some() && kv.is_some();
    let as_run = (reference.is_some() && !is_run)
        .then(|| open::prepare(common, &opened, activations, kv.unwrap_or(Kv::F16)))
        .transpose()?;
    let bar = Bar::new(common, "eval");
    let judged = Judged {
        model: &transformer,
        reference: reference.as_ref().map(|(_, reference)| reference),
        as_run: as_run.as_ref(),
    };
    let mut quality = evaluate(judged, &contexts, &mut |done, all| bar.step(done, all))?;
    if is_run {
        (quality.kld_mean_as_run, quality.top1_agreement_as_run) = (quality.kld_mean, quality.top1_agreement);
    }
    if common.json {
        output::json(&quality)?;
    } else {
        print(&quality)?;
    }
    Ok(ExitCode::SUCCESS)
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
