//! A loaded model with its engine: everything that the interfaces of HTTP need to answer.

use crate::constraint::{Constraint, Grammar, GrammarError, Grammars};
use crate::engine::{Metrics, common_prefix};
use crate::gone::Gone;
use crate::http::ApiError;
use crate::speech::Speech;
use crate::{Engine, Settings};
use kvant::Model;
use kvant::RunSettings;
use kvant::eval::machine_memory_bytes;
use kvant::kernels::Backend;
use kvant::model::{
    ChatTemplate, Conversation, Ending, Pooling, Rendering, Sampling, Tokenizer, Transformer,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The chat template ChatML, for models without one.
pub const CHATML: &str = concat!(
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
);

/// Settings of a service.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Largest number of tokens of a request, but not more than the model's context, which 0 stands for; `None` is the
    /// smaller of the model's context and 4096.
    pub context: Option<usize>,
    /// Largest number of tokens of an answer whose request gives no limit.
    pub answer_tokens: usize,
    /// Largest number of requests that run at the same time.
    pub parallel: usize,
    /// Largest number of requests that wait.
    pub queue: usize,
    /// Memory for the states of a model's requests; `None` has room for all of them, or is half of the machine's memory
    /// (divided by the number of models).
    pub state_bytes: Option<usize>,
    /// Largest time of a request; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Arithmetic and KV cache.
    pub run: RunSettings,
    /// The seed of requests that give none; `None` draws one for each request.
    pub seed: Option<u64>,
    /// The source of the chat template; `None` is the model's own.
    pub chat_template: Option<String>,
    /// Variables of the chat template. Those of a request go first.
    pub template_variables: Map<String, Value>,
    /// If true, responses show the prompt as the model reads it.
    pub verbose: bool,
    /// If true, language models give vectors, too, and write no text.
    pub embedding: bool,
    /// The pooling of vectors; `None` is the model's own.
    pub pooling: Option<Pooling>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            context: None,
            answer_tokens: usize::MAX,
            parallel: 8,
            queue: 256,
            state_bytes: None,
            timeout: None,
            run: RunSettings::default(),
            seed: None,
            chat_template: None,
            template_variables: Map::new(),
            verbose: false,
            embedding: false,
            pooling: None,
        }
    }
}

/// A loaded model with its engine.
pub struct Service {
    pub(crate) engine: Engine,
    pub(crate) template: ChatTemplate,
    /// The source of the chat template of the model or of the settings; empty if neither has one, and ChatML stands in.
    pub(crate) template_source: String,
    /// True if BOS begins a prompt whose template does not write it: a template that did not come with the model.
    pub(crate) adds_bos: bool,
    /// Variables of the chat template.
    pub(crate) template_variables: Map<String, Value>,
    /// Largest number of tokens of an answer whose request gives no limit.
    pub(crate) answer_tokens: usize,
    /// The form in which the model writes reasoning and calls of tools.
    pub(crate) speech: Speech,
    /// True if marks of `speech` are control tokens.
    pub(crate) marks_are_control: bool,
    /// Default settings for the choice of tokens.
    pub(crate) sampling: Sampling,
    pub(crate) name: String,
    pub(crate) timeout: Option<Duration>,
    /// The seed of requests that give none.
    pub(crate) seed: Option<u64>,
    pub(crate) size: ModelSize,
    /// The path of the model's file or folder.
    pub(crate) path: String,
    /// If true, responses show the prompt as the model reads it.
    pub(crate) verbose: bool,
    needs_boundaries: bool,
    /// Compiles grammars. The vocabulary is read when the first request needs it.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
    // The last field: it is dropped after the engine's memory is free.
    pub(crate) gone: Gone,
}

impl Service {
    /// Loads a model and starts its engine. `sampling` changes the model's own settings for the choice of tokens.
    ///
    /// # Errors
    /// Errors of the model; a context that is too long; memory that has no room for one token.
    pub fn load(
        model: &Model,
        surroundings: Surroundings<'_>,
        settings: &ServiceSettings,
        sampling: impl FnOnce(Sampling) -> Sampling,
    ) -> Result<Self, kvant::Error> {
        let Surroundings { name, backend, models, state_limit, metrics } = surroundings;
        let (network, tokenizer) = model.load_speaker(backend, settings.run)?;
        let context = context_tokens(settings.context, &network, name)?;
        let source = settings.chat_template.as_deref().or(tokenizer.chat_template());
        if source.is_none() {
            tracing::warn!(model = name, "no chat template; conversations are written in ChatML");
        }
        let template = ChatTemplate::with_source(source.unwrap_or(CHATML), &tokenizer)?;
        let speech = Speech::of(source.unwrap_or_default());
        let template_source = source.unwrap_or_default().to_owned();
        let own = settings.chat_template.is_none() && tokenizer.chat_template().is_some();
        let adds_bos = !own && tokenizer.adds_bos();
        let is_control = |mark: &str| tokenizer.id(mark).is_some_and(|id| tokenizer.is_control(id));
        let marks_are_control = speech.marks().into_iter().any(is_control);
        let engine_settings = Settings::new(&network, settings.parallel, context);
        let engine_settings = Settings {
            queue: settings.queue,
            state_bytes: settings.state_bytes.unwrap_or_else(|| {
                let half = machine_memory_bytes().map_or(usize::MAX, |bytes| (bytes / 2) as usize);
                // One request must fit.
                engine_settings
                    .state_bytes
                    .min(half / models.max(1))
                    .max(engine_settings.state_bytes / settings.parallel.max(1))
                    .min(state_limit)
            }),
            ..engine_settings
        };
        let needs_boundaries = network.sequence(1).needs_checkpoints();
        let engine = Engine::start(Arc::new(network), tokenizer, engine_settings, metrics)
            .map_err(|source| kvant::Error::io(model.path(), "starting the engine", source))?;
        Ok(Self {
            engine,
            template,
            template_source,
            speech,
            marks_are_control,
            sampling: sampling(model.sampling()),
            name: name.to_owned(),
            timeout: settings.timeout,
            adds_bos,
            template_variables: settings.template_variables.clone(),
            answer_tokens: settings.answer_tokens,
            seed: settings.seed,
            size: ModelSize::of(model),
            path: model.path().display().to_string(),
            verbose: settings.verbose,
            needs_boundaries,
            grammars: OnceLock::new(),
            gone: Gone::default(),
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The name of the model in answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.engine.tokenizer()
    }

    /// Compiles a grammar.
    pub(crate) fn constraint(&self, grammar: &Grammar) -> Result<Constraint, String> {
        let vocabulary = self.engine.network().spec().vocabulary;
        let grammars = self.grammars.get_or_init(|| Grammars::new(self.tokenizer(), vocabulary));
        let grammars = grammars.as_ref().map_err(ToString::to_string)?;
        grammars.compile(grammar).map_err(|error| error.to_string())
    }

    /// Encodes a rendered conversation. The template writes BOS itself, unless it did not come with the model.
    pub(crate) fn encode_rendering(&self, rendering: &Rendering) -> Result<Vec<u32>, ApiError> {
        let encoded = self.tokenizer().encode_spans(&rendering.spans(), false);
        let mut tokens = encoded.map_err(|error| ApiError::invalid(error.to_string()))?;
        if let Some(bos) = self.tokenizer().bos().filter(|_| self.adds_bos)
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// Returns the boundaries of an encoded conversation: the end of its last message, if the network needs it.
    pub(crate) fn boundaries(
        &self,
        conversation: &Conversation,
        tokens: &[u32],
    ) -> Result<Vec<usize>, ApiError> {
        if !self.needs_boundaries {
            return Ok(Vec::new());
        }
        let whole = conversation.clone().ending(Ending::Whole);
        let whole = self.template.render_conversation(&whole).ok();
        let whole = whole.and_then(|whole| self.encode_rendering(&whole).ok()).unwrap_or_default();
        Ok(vec![common_prefix(&whole, tokens).min(tokens.len() - 1)])
    }
}

/// The largest number of tokens of a request. A server can have several models, so a number that is too large for one of
/// them is no error.
fn context_tokens(asked: Option<usize>, network: &Transformer, name: &str) -> Result<usize, kvant::Error> {
    let longest = network.spec().context;
    if let Some(asked) = asked.filter(|asked| *asked > longest) {
        tracing::warn!(model = name, asked, longest, "the model was made for a shorter context");
    }
    let asked = asked.map(|asked| if asked == 0 { longest } else { asked.min(longest) });
    kvant::context(asked, network)
}

/// The parts of its server that a service uses.
pub struct Surroundings<'a> {
    /// The name of the model in answers.
    pub name: &'a str,
    /// The threads and kernels, which all models share.
    pub backend: Backend,
    /// The number of models of the server.
    pub models: usize,
    /// Largest memory for states, in bytes.
    pub state_limit: usize,
    /// The metrics of the model.
    pub metrics: Metrics,
}

impl<'a> Surroundings<'a> {
    /// A service on its own.
    pub fn alone(name: &'a str, backend: Backend) -> Self {
        Self { name, backend, models: 1, state_limit: usize::MAX, metrics: Metrics::default() }
    }
}

/// The size of a model's files.
#[derive(Clone, Debug)]
pub(crate) struct ModelSize {
    /// Bytes of all tensors.
    pub weights_bytes: u64,
    /// The number of all weights.
    pub parameters: u64,
    /// The format with the most bytes.
    pub format: String,
}

impl ModelSize {
    pub fn of(model: &Model) -> Self {
        let tensors = model.weights().checkpoint().tensors();
        let mut bytes_of: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in tensors {
            *bytes_of.entry(tensor.type_name()).or_default() += tensor.bytes as u64;
        }
        let largest = bytes_of.iter().max_by_key(|(_, bytes)| **bytes);
        Self {
            weights_bytes: bytes_of.values().sum(),
            parameters: tensors.iter().map(|tensor| tensor.shape.elements() as u64).sum(),
            format: largest.map(|(name, _)| (*name).to_owned()).unwrap_or_default(),
        }
    }
}

/// The time now, as RFC 3339 writes it.
pub(crate) fn timestamp() -> String {
    jiff::Timestamp::now().to_string()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
