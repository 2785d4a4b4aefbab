//! The job `eval`: perplexity, and divergence from a reference.

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
    /// The model whose distributions count as true.
    pub reference: Option<&'a Model>,
    /// Tokens of a context.
    pub context: usize,
    /// Contexts at most.
    pub contexts: Option<usize>,
    /// How activations meet weights; `None` measures the stored values themselves, and beside them the model as it runs.
    pub arithmetic: Option<Arithmetic>,
    /// How keys and values are kept; `None` as above.
    pub kv: Option<KvFormat>,
}

impl<'a> Evaluate<'a> {
    /// Perplexity in contexts of 512 tokens, nothing rounded but the weights.
    pub fn new(model: &'a Model, text: &'a str) -> Self {
        Self { model, text, reference: None, context: 512, contexts: None, arithmetic: None, kv: None }
    }

    /// Does it.
    ///
    /// # Errors
    /// A context longer than the model's, models with different tokenizers, a text shorter than a context, broken weights.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<Quality, Error> {
        let exact = RunSettings::EXACT;
        let measured =
            RunSettings { arithmetic: self.arithmetic.or(exact.arithmetic), kv: self.kv.unwrap_or(exact.kv) };
        let model = self.model.load(backend.clone(), measured)?;
        check_context(self.context, &model)?;
        // The reference stays exact.
        let reference = self.reference.map(|reference| reference.load(backend.clone(), exact)).transpose()?;
        let contexts = contexts(&self.tokenizer()?, self.text, self.context, self.contexts)?;
        // Where both settings are given, what is measured is what runs.
        let is_run = self.arithmetic.is_some() && self.kv.is_some();
        let run = RunSettings { arithmetic: self.arithmetic, kv: self.kv.unwrap_or(KvFormat::F16) };
        let as_run =
            (reference.is_some() && !is_run).then(|| self.model.load(backend.clone(), run)).transpose()?;
        progress.begin("eval");
        let judged = Judged { model: &model, reference: reference.as_ref(), as_run: as_run.as_ref() };
        let mut quality = evaluate(judged, &contexts, progress)?;
        if is_run {
            (quality.kld_mean_as_run, quality.top1_agreement_as_run) =
                (quality.kld_mean, quality.top1_agreement);
        }
        Ok(quality)
    }

    /// The reference's tokenizer, if there is one; it has to cut the text as the model's own does.
    fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let own = self.model.tokenizer()?;
        let Some(reference) = self.reference else { return Ok(own) };
        let theirs = reference.tokenizer()?;
        match theirs.difference(&own, self.text)? {
            None => Ok(theirs),
            Some(difference) => Err(Error::DifferentTokenizers {
                reference: reference.path().to_owned(),
                model: self.model.path().to_owned(),
                difference,
            }),
        }
    }
}

/// A text cut into contexts as llama-perplexity does.
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
