//! A model as a job gets it: opened, with its tokenizer and its own sampling settings, prepared to run.

use crate::Error;
use crate::demo::{DemoFolder, is_absent, is_demo};
use kvant_io::{Checkpoint, Limits, Meta};
use kvant_kernels::{Arithmetic, Backend, Isa, KvFormat, Precision};
use kvant_model::{Sampling, Tokenizer, TokenizerError, Transformer, Weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checkpoint that has been opened.
pub struct Opened {
    checkpoint: Box<dyn Checkpoint>,
    path: PathBuf,
    demo: Option<DemoFolder>,
}

impl Opened {
    /// Opens a `.gguf` file, a `.safetensors` file, a Hugging Face folder, or the demo model (`demo`).
    ///
    /// # Errors
    /// A path that names nothing, or nothing that can be read.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let text = path.to_string_lossy();
        if text.starts_with("hf:") {
            let (what, hint) = (format!("{text}: models by name"), "; give a file or a folder");
            return Err(Error::NotBuilt { what, plural: true, hint });
        }
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
            return Err(Error::NotBuilt { what: format!("{text}: ONNX graphs"), plural: true, hint: "" });
        }
        if is_demo(path) {
            return Self::demo();
        }
        let opening = |source| Error::io(path, "opening", source);
        if is_absent(path) {
            return Err(Error::Absent { path: path.to_owned() });
        }
        std::fs::metadata(path).map_err(opening)?;
        let checkpoint = kvant_io::open(path, &Limits::default())?;
        Ok(Self { checkpoint, path: path.to_owned(), demo: None })
    }

    /// Opens the demo model.
    fn demo() -> Result<Self, Error> {
        let demo = DemoFolder::new()?;
        let checkpoint = kvant_io::open(&demo.path(), &Limits::default())?;
        Ok(Self { checkpoint, path: "demo".into(), demo: Some(demo) })
    }

    /// Its tensors and metadata.
    pub fn checkpoint(&self) -> &dyn Checkpoint {
        &*self.checkpoint
    }

    /// Its tokenizer, whatever the architecture is.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], or what is wrong with it.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        tokenizer(self.checkpoint.meta(), &self.path)
    }
}

/// How a network runs.
#[derive(Clone, Copy, Debug)]
pub struct RunSettings {
    /// How activations meet weights of codes; `None` is the best of this processor: integers, on the plain loops floats.
    pub arithmetic: Option<Arithmetic>,
    /// How keys and values of earlier tokens are kept.
    pub kv: KvFormat,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { arithmetic: None, kv: KvFormat::F16 }
    }
}

impl RunSettings {
    /// Nothing is rounded that the weights' own values don't round.
    pub const EXACT: Self = Self { arithmetic: Some(Arithmetic::Float), kv: KvFormat::F32 };
}

/// A backend that multiplies as fast as this processor can: the plain loops do so on floats.
pub fn fast(backend: Backend) -> Backend {
    let plain = backend.isa() == Isa::Scalar;
    backend.with(if plain { Arithmetic::Float } else { Arithmetic::Integer(Precision::default()) })
}

/// A language model that has been opened; its weights are mapped, nothing is loaded.
///
/// ```
/// use kvant::{Model, RunSettings, kernels::{Backend, Isa}};
///
/// # fn main() -> Result<(), kvant::Error> {
/// let model = Model::open("demo".as_ref())?;
/// let network = model.load(Backend::new(Isa::best(), 1), RunSettings::default())?;
/// assert_eq!(network.spec().vocabulary, model.weights().spec().vocabulary);
/// # Ok(())
/// # }
/// ```
pub struct Model {
    weights: Weights,
    path: PathBuf,
    // Keeps the demo model's files alive.
    _demo: Option<DemoFolder>,
}

impl Model {
    /// Opens a language model; paths as in [`Opened::new`].
    ///
    /// # Errors
    /// A path that names no model, or one of a family that kvant does not run.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::of(Opened::new(path)?)
    }

    /// The demo model, whatever lies in the current folder.
    ///
    /// # Errors
    /// A disk that has no room for it.
    pub fn demo() -> Result<Self, Error> {
        Self::of(Opened::demo()?)
    }

    fn of(Opened { checkpoint, path, demo }: Opened) -> Result<Self, Error> {
        Ok(Self { weights: Weights::new(checkpoint)?, path, _demo: demo })
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// As [`Opened::tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        tokenizer(self.weights.checkpoint().meta(), &self.path)
    }

    /// The network, prepared to run.
    ///
    /// # Errors
    /// What reading says; a format of keys and values that does not fit the heads.
    pub fn load(&self, backend: Backend, run: RunSettings) -> Result<Transformer, Error> {
        let backend = match run.arithmetic {
            None => fast(backend),
            Some(arithmetic) => backend.with(arithmetic),
        };
        Ok(Transformer::load(&self.weights, backend)?.with_kv_format(run.kv)?)
    }

    /// The network and the tokenizer, made at the same time: either takes a fifth of a second for a small model.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Model::tokenizer`].
    pub fn load_speaker(
        &self,
        backend: Backend,
        run: RunSettings,
    ) -> Result<(Transformer, Arc<Tokenizer>), Error> {
        let (network, tokenizer) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("kvant-tokenizer".to_owned());
            let made = thread.spawn_scoped(scope, || self.tokenizer());
            let network = self.load(backend, run);
            let tokenizer = match made {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // Without a thread it is made afterwards.
                Err(_) => self.tokenizer(),
            };
            (network, tokenizer)
        });
        Ok((network?, Arc::new(tokenizer?)))
    }

    /// kvant's sampling settings, the model's own before them.
    pub fn sampling(&self) -> Sampling {
        let number = |hugging_face: &str, gguf: &str| match self.weights.checkpoint().meta() {
            Meta::HuggingFace(folder) => {
                folder.generation_config.as_ref().and_then(|g| g.get(hugging_face)).and_then(|v| v.as_f64())
            }
            Meta::Gguf(metadata) => {
                metadata.get(gguf).and_then(|v| v.as_f64().or(v.as_u64().map(|n| n as f64)))
            }
        };
        let default = Sampling::default();
        let pick = |hugging_face: &str, gguf: &str, default: f32| {
            number(hugging_face, gguf).map_or(default, |x| x as f32)
        };
        Sampling {
            temperature: pick("temperature", "general.sampling.temp", default.temperature),
            top_k: number("top_k", "general.sampling.top_k").map_or(default.top_k, |x| x.max(0.0) as usize),
            top_p: pick("top_p", "general.sampling.top_p", default.top_p),
            min_p: pick("min_p", "general.sampling.min_p", default.min_p),
            repeat_penalty: pick(
                "repetition_penalty",
                "general.sampling.penalty_repeat",
                default.repeat_penalty,
            ),
            seed: default.seed,
        }
    }
}

/// The tokenizer of a checkpoint with this metadata, which lies at `path`.
fn tokenizer(meta: &Meta, path: &Path) -> Result<Tokenizer, Error> {
    let place = |source| match source {
        TokenizerError::File { .. } => Error::Tokenizer(source),
        source => Error::TokenizerOf { path: path.to_owned(), source: Box::new(source) },
    };
    Tokenizer::from_meta(meta).map_err(place)?.ok_or_else(|| Error::NoTokenizer { path: path.to_owned() })
}

/// Tokens of context: as asked for, else the smaller of what the model was made for and 4096.
///
/// # Errors
/// None, or more than the model was made for.
pub fn context(asked: Option<usize>, network: &Transformer) -> Result<usize, Error> {
    let longest = network.spec().context;
    match asked {
        None => Ok(longest.min(4096)),
        Some(0) => Err(Error::option("--ctx", "must be at least 1")),
        Some(n) => check_context(n, network).map(|()| n),
    }
}

/// Refuses contexts longer than the model's.
pub(crate) fn check_context(context: usize, network: &Transformer) -> Result<(), Error> {
    let longest = network.spec().context;
    if context > longest {
        let reason = format!("the model was made for at most {longest} tokens");
        return Err(Error::option(format!("--ctx {context}"), reason));
    }
    Ok(())
}

/// Reads a text.
///
/// # Errors
/// What the file system says; [`Error::NotUtf8`].
pub fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "reading", e))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::NotUtf8 { path: path.to_owned(), at: e.utf8_error().valid_up_to() })
}
