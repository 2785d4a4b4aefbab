//! `kvant run`: one answer to a raw prompt.

use crate::arguments::{Common, Run};
use crate::failure::Failure;
use crate::{open, output, terminal};
use kvant::model::{Sampler, Special, generate};
use serde::Serialize;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Ran {
    text: String,
    prompt_tokens: usize,
    completion_tokens: usize,
    finish_reason: &'static str,
    prefill_tps: f64,
    decode_tps: f64,
    peak_rss_bytes: u64,
    /// The seed of the answer.
    seed: u64,
}

/// Writes a piece of an answer at once; false once it cannot or must not go on.
pub fn emit(piece: &str) -> bool {
    terminal::print(piece).is_ok() && open::interrupts() == 0
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Run) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let (opened, transformer, tokenizer) = open::speaker(common, &path, arguments.activations, arguments.kv)?;
    let meta = opened.weights.checkpoint().meta();
    let context = open::context(arguments.ctx, &transformer)?;
    let mut prompt = tokenizer.encode(&arguments.prompt, Special { add: true, parse: true })?;
    if prompt.is_empty() {
        prompt.extend(tokenizer.bos());
    }
    if prompt.is_empty() {
        return Err(Failure::Usage(
            "the prompt is empty, and the model has no token that begins a text".into(),
        ));
    }
    if prompt.len() > context {
        let count = prompt.len();
        return Err(Failure::Fault(format!(
            "the prompt has {count} tokens, the context {context}; raise --ctx"
        )));
    }
    arguments.sampling.seed.say(common);
    let mut sampler = Sampler::new(open::sampling(&arguments.sampling, meta)).map_err(usage)?;
    let mut sequence = transformer.sequence(context);
    let answer = generate(
        &transformer,
        &tokenizer,
        &mut sequence,
        &mut sampler,
        &prompt,
        arguments.count,
        &arguments.stop,
        &mut |piece| if common.json { open::interrupts() == 0 } else { emit(piece) },
    )?;
    if common.json {
        let per_second =
            |count: usize, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        output::json(&Ran {
            prompt_tokens: prompt.len(),
            completion_tokens: answer.tokens.len(),
            finish_reason: answer.finish.name(),
            prefill_tps: per_second(prompt.len(), answer.prefill_seconds),
            decode_tps: per_second(answer.tokens.len(), answer.decode_seconds),
            peak_rss_bytes: kvant::eval::peak_resident_bytes(),
            seed: arguments.sampling.seed.number,
            text: answer.text,
        })?;
    } else {
        output::line("")?;
    }
    if open::interrupts() > 0 {
        return Err(Failure::Interrupted);
    }
    Ok(ExitCode::SUCCESS)
}

/// A sampling flag outside its range is a fault of the command line.
pub fn usage(error: kvant::model::SamplerError) -> Failure {
    Failure::Usage(error.to_string())
}
