//! A loaded model with its engine: everything that the interfaces of HTTP need to answer.

use crate::constraint::{Constraint, Grammar, GrammarError, Grammars};
use crate::engine::common_prefix;
use crate::http::ApiError;
use crate::speech::Speech;
use crate::{Engine, Settings};
use kvant::Model;
use kvant::eval::machine_memory_bytes;
use kvant::kernels::Backend;
use kvant::model::{ChatTemplate, Conversation, Ending, Sampling, Special, Tokenizer};
use kvant::{RunSettings, context};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Settings of a service.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// The name of the model in answers. `None` is the name of its file.
    pub alias: Option<String>,
    /// Largest number of tokens of a request; `None` is the smaller of the model's context and 4096.
    pub context: Option<usize>,
    /// Largest number of requests that run at the same time.
    pub parallel: usize,
    /// Largest number of requests that wait.
    pub queue: usize,
    /// Memory for the states of requests; `None` has room for all of them, or is half of the machine's memory.
    pub state_bytes: Option<usize>,
    /// Largest time of a request; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Arithmetic and KV cache.
    pub run: RunSettings,
    /// The seed of requests that give none; `None` draws one for each request.
    pub seed: Option<u64>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            alias: None,
            context: None,
            parallel: 8,
            queue: 256,
            state_bytes: None,
            timeout: None,
            run: RunSettings::default(),
            seed: None,
        }
    }
}

/// A loaded model with its engine.
pub struct Service {
    pub(crate) engine: Engine,
    pub(crate) template: Option<ChatTemplate>,
    /// The form in which the model writes reasoning and calls of tools.
    pub(crate) speech: Speech,
    /// True if marks of `speech` are control tokens.
    pub(crate) marks_are_control: bool,
    /// Default settings for the choice of tokens.
    pub(crate) sampling: Sampling,
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) timeout: Option<Duration>,
    /// The seed of requests that give none.
    pub(crate) seed: Option<u64>,
    /// Bytes of all tensors.
    pub(crate) weights_bytes: u64,
    /// The number of all weights.
    pub(crate) parameters: u64,
    /// The format with the most bytes.
    pub(crate) format: String,
    needs_boundaries: bool,
    /// Compiles grammars. The vocabulary is read when the first request needs it.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl Service {
    /// Loads a model and starts its engine. `sampling` changes the model's own settings for the choice of tokens.
    ///
    /// # Errors
    /// Errors of the model; a context that is too long; memory that has no room for one token.
    pub fn load(
        model: &Model,
        backend: Backend,
        settings: &ServiceSettings,
        sampling: impl FnOnce(Sampling) -> Sampling,
    ) -> Result<Self, kvant::Error> {
        let (network, tokenizer) = model.load_speaker(backend, settings.run)?;
        let context = context(settings.context, &network)?;
        let template = ChatTemplate::of(&tokenizer)?;
        let speech = Speech::of(tokenizer.chat_template().unwrap_or_default());
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
                    .min(half)
                    .max(engine_settings.state_bytes / settings.parallel.max(1))
            }),
            ..engine_settings
        };
        let (weights_bytes, parameters, format) = sizes(model);
        let needs_boundaries = network.sequence(1).needs_checkpoints();
        let engine = Engine::start(Arc::new(network), tokenizer, engine_settings)
            .map_err(|source| kvant::Error::io(model.path(), "starting the engine", source))?;
        Ok(Self {
            engine,
            template,
            speech,
            marks_are_control,
            sampling: sampling(model.sampling()),
            name: model_name(model, settings),
            created: now(),
            timeout: settings.timeout,
            seed: settings.seed,
            weights_bytes,
            parameters,
            format,
            needs_boundaries,
            grammars: OnceLock::new(),
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

    /// The chat template.
    ///
    /// # Errors
    /// A model without one.
    pub(crate) fn template(&self) -> Result<&ChatTemplate, ApiError> {
        let missing = || ApiError::invalid("the model has no chat template; /v1/completions takes raw text");
        self.template.as_ref().ok_or_else(missing)
    }

    /// Encodes a raw prompt. Control tokens in it are parsed.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, ApiError> {
        let tokenizer = self.tokenizer();
        let encoded = tokenizer.encode(text, Special { add: true, parse: true });
        let mut tokens = encoded.map_err(|error| ApiError::invalid(error.to_string()))?;
        if tokens.is_empty() {
            tokens.extend(tokenizer.bos());
        }
        Ok(tokens)
    }

    /// Compiles a grammar.
    pub(crate) fn constraint(&self, grammar: &Grammar) -> Result<Constraint, String> {
        let vocabulary = self.engine.network().spec().vocabulary;
        let grammars = self.grammars.get_or_init(|| Grammars::new(self.tokenizer(), vocabulary));
        let grammars = grammars.as_ref().map_err(ToString::to_string)?;
        grammars.compile(grammar).map_err(|error| error.to_string())
    }

    /// The text of one token. Bytes that are no character are replaced.
    pub(crate) fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.tokenizer().bytes(id, true)).into_owned()
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
        let whole = self.template()?.encode_conversation(self.tokenizer(), &whole).unwrap_or_default();
        Ok(vec![common_prefix(&whole, tokens).min(tokens.len() - 1)])
    }
}

/// The name of a model in answers.
pub(crate) fn model_name(model: &Model, settings: &ServiceSettings) -> String {
    let file_name = model.path().file_stem().map(|name| name.to_string_lossy().into_owned());
    settings.alias.clone().or(file_name).unwrap_or_else(|| "model".to_owned())
}

/// The bytes of all tensors, the number of all weights, and the format with the most bytes.
fn sizes(model: &Model) -> (u64, u64, String) {
    let tensors = model.weights().checkpoint().tensors();
    let mut bytes_of: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in tensors {
        *bytes_of.entry(tensor.type_name()).or_default() += tensor.bytes as u64;
    }
    let largest = bytes_of.iter().max_by_key(|(_, bytes)| **bytes);
    let format = largest.map(|(name, _)| (*name).to_owned()).unwrap_or_default();
    let parameters = tensors.iter().map(|tensor| tensor.shape.elements() as u64).sum();
    (bytes_of.values().sum(), parameters, format)
}

/// The time now, as RFC 3339 writes it.
pub(crate) fn timestamp() -> String {
    jiff::Timestamp::now().to_string()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
