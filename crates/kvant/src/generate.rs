//! The job `run`: continues a raw prompt.

use crate::Error;
use kvant_eval::peak_resident_bytes;
use kvant_model::{Sampler, Sampling, Special, Tokenizer, Transformer, generate};
use serde::Serialize;
use std::sync::Arc;

/// Continues a prompt. The prompt is raw text; control tokens in it are parsed.
///
/// ```
/// use kvant::kernels::{Backend, Isa};
/// use kvant::{Generate, Model, RunSettings};
///
/// # fn main() -> Result<(), kvant::Error> {
/// let model = Model::open("demo".as_ref())?;
/// let (network, tokenizer) = model.load_speaker(Backend::new(Isa::best(), 1), RunSettings::default())?;
/// let job = Generate { tokens: 4, ..Generate::new(&network, &tokenizer, model.sampling()) };
/// let answer = job.run("Once upon a time", &mut |_piece| true)?;
/// assert_eq!(answer.completion_tokens, 4);
/// # Ok(())
/// # }
/// ```
pub struct Generate<'a> {
    /// The network.
    pub network: &'a Transformer,
    /// The network's tokenizer.
    pub tokenizer: &'a Arc<Tokenizer>,
    /// Sampling settings.
    pub sampling: Sampling,
    /// Maximum number of tokens of the answer.
    pub tokens: usize,
    /// Maximum number of tokens of prompt and answer together; `None` is the smaller of the model's context and 4096.
    pub context: Option<usize>,
    /// Stop strings. The answer ends before the first stop string.
    pub stop: Vec<String>,
}

/// An answer.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Generated {
    /// The text of the answer, without the prompt.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// The reason why the answer ended: `stop`, `length` or `interrupted`.
    pub finish_reason: &'static str,
    /// Prefill speed, tokens per second.
    pub prefill_tps: f64,
    /// Decode speed, tokens per second.
    pub decode_tps: f64,
    /// Peak resident memory of the process.
    pub peak_rss_bytes: u64,
    /// The seed of sampling.
    pub seed: u64,
}

impl<'a> Generate<'a> {
    /// Continues a prompt by at most 128 tokens.
    pub fn new(network: &'a Transformer, tokenizer: &'a Arc<Tokenizer>, sampling: Sampling) -> Self {
        Self { network, tokenizer, sampling, tokens: 128, context: None, stop: Vec::new() }
    }

    /// Generates the answer. `emit` receives each piece of text when the piece is final, and empty pieces during the
    /// prefill of a long prompt. If `emit` returns false, the answer ends.
    ///
    /// # Errors
    /// A prompt that is empty or longer than the context; a sampling setting outside its range; broken weights.
    pub fn run(&self, prompt: &str, emit: &mut dyn FnMut(&str) -> bool) -> Result<Generated, Error> {
        let context = crate::opened::context(self.context, self.network)?;
        let mut prompt = self.tokenizer.encode(prompt, Special { add: true, parse: true })?;
        if prompt.is_empty() {
            prompt.extend(self.tokenizer.bos());
        }
        if prompt.is_empty() {
            let reason = "it is empty, and the model has no token that begins a text";
            return Err(Error::option("the prompt", reason));
        }
        if prompt.len() > context {
            return Err(Error::LongPrompt { tokens: prompt.len(), context });
        }
        let mut sampler = Sampler::with_tokenizer(self.sampling.clone(), self.tokenizer)?;
        let mut sequence = self.network.sequence(context);
        let answer = generate(
            self.network,
            self.tokenizer,
            &mut sequence,
            &mut sampler,
            &prompt,
            self.tokens,
            &self.stop,
            emit,
        )?;
        let per_second =
            |count: usize, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Ok(Generated {
            prompt_tokens: prompt.len(),
            completion_tokens: answer.tokens.len(),
            finish_reason: answer.finish.name(),
            prefill_tps: per_second(prompt.len(), answer.prefill_seconds),
            decode_tps: per_second(answer.tokens.len(), answer.decode_seconds),
            peak_rss_bytes: peak_resident_bytes(),
            seed: self.sampling.seed,
            text: answer.text,
        })
    }
}
