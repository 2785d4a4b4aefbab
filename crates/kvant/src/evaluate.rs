//! The job `eval`: measures perplexity, and KL divergence from a reference.

use crate::opened::check_context;
use crate::{Error, Model, RunSettings};
use kvant_eval::{Contexts, Judged, Progress, Quality, evaluate};
use kvant_kernels::{Arithmetic, Backend, KvFormat};
use kvant_model::{Special, Tokenizer};

/// Measures the quality of a model on a text.
///
/// ```
/// use kvant::kernels::{Backend, Isa};
/// use kvant::{DEMO_TEXT, Evaluate, Model};
///
/// # fn main() -> Result<(), kvant::Error> {
/// let model = Model::open("demo".as_ref())?;
/// let job = Evaluate { reference: Some(&model), context: 64, contexts: Some(1), ..Evaluate::new(&model, DEMO_TEXT) };
/// let quality = job.run(&Backend::new(Isa::best(), 1), &())?;
/// assert!(quality.ppl > 1.0 && quality.kld_mean == Some(0.0));
/// # Ok(())
/// # }
/// ```
pub struct Evaluate<'a> {
    /// The model.
    pub model: &'a Model,
    /// The text.
    pub text: &'a str,
    /// The reference model for the KL divergence.
    pub reference: Option<&'a Model>,
    /// Tokens of a context.
    pub context: usize,
    /// Maximum number of contexts; `None` uses all contexts.
    pub contexts: Option<usize>,
    /// The arithmetic of matrix products. `None` measures with exact arithmetic. If there is a reference, `None` also
    /// measures with the arithmetic of the job `run`.
    pub arithmetic: Option<Arithmetic>,
    /// The format of the KV cache. `None` measures with f32. If there is a reference, `None` also measures with f16,
    /// the format of the job `run`.
    pub kv: Option<KvFormat>,
}

impl<'a> Evaluate<'a> {
    /// Measures perplexity in contexts of 512 tokens with exact arithmetic, which means that only the weights are
    /// rounded.
    pub fn new(model: &'a Model, text: &'a str) -> Self {
        Self { model, text, reference: None, context: 512, contexts: None, arithmetic: None, kv: None }
    }

    /// Runs the evaluation.
    ///
    /// # Errors
    /// A context longer than the model's context; models with different tokenizers; a text shorter than a context;
    /// broken weights.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<Quality, Error> {
        let exact = RunSettings::EXACT;
        let measured =
            RunSettings { arithmetic: self.arithmetic.or(exact.arithmetic), kv: self.kv.unwrap_or(exact.kv) };
        let model = self.model.load(backend.clone(), measured)?;
        check_context(self.context, &model)?;
        // The reference always uses exact arithmetic.
        let reference = self.reference.map(|reference| reference.load(backend.clone(), exact)).transpose()?;
        let contexts = contexts(&self.tokenizer()?, self.text, self.context, self.contexts)?;
        // If arithmetic and KV format are both given, the results "as run" are the results with these settings.
        let is_as_run = self.arithmetic.is_some() && self.kv.is_some();
        let run = RunSettings { arithmetic: self.arithmetic, kv: self.kv.unwrap_or(KvFormat::F16) };
        let as_run =
            (reference.is_some() && !is_as_run).then(|| self.model.load(backend.clone(), run)).transpose()?;
        progress.begin("eval");
        let judged = Judged { model: &model, reference: reference.as_ref(), as_run: as_run.as_ref() };
        let mut quality = evaluate(judged, &contexts, progress)?;
        if is_as_run {
            (quality.kld_mean_as_run, quality.top1_agreement_as_run) =
                (quality.kld_mean, quality.top1_agreement);
        }
        Ok(quality)
    }

    /// Returns the reference's tokenizer, or the model's tokenizer if there is no reference.
    ///
    /// # Errors
    /// [`Error::DifferentTokenizers`] if the two tokenizers differ on the text.
    fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let own = self.model.tokenizer()?;
        let Some(reference) = self.reference else { return Ok(own) };
        let of_reference = reference.tokenizer()?;
        match of_reference.difference(&own, self.text)? {
            None => Ok(of_reference),
            Some(difference) => Err(Error::DifferentTokenizers {
                reference: reference.path().to_owned(),
                model: self.model.path().to_owned(),
                difference,
            }),
        }
    }
}

/// Tokenizes a text and cuts it into contexts as llama-perplexity does.
pub(crate) fn contexts(
    tokenizer: &Tokenizer,
    text: &str,
    context: usize,
    limit: Option<usize>,
) -> Result<Contexts, Error> {
    let tokens = tokenizer.encode(text, Special { add: true, parse: false })?;
    let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
    Ok(Contexts::new(&tokens, context, limit, bos)?)
}
