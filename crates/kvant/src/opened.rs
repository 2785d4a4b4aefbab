//! Opens a model, its tokenizer and its sampling settings. Loads the model to run.

use crate::Error;
use crate::demo::{DemoFolder, is_absent, is_demo};
use kvant_io::{Checkpoint, Limits, Meta};
use kvant_kernels::{Arithmetic, Backend, Isa, KvFormat, Precision};
use kvant_model::{Sampling, Tokenizer, TokenizerError, Transformer, Weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened checkpoint.
pub struct Opened {
    checkpoint: Box<dyn Checkpoint>,
    path: PathBuf,
    /// Keeps the demo model's files alive.
    demo: Option<DemoFolder>,
}

impl Opened {
    /// Opens a `.gguf` file, a `.safetensors` file, a Hugging Face folder, or the demo model (`demo`).
    ///
    /// # Errors
    /// A path that does not exist, or that is not a supported model.
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
        let open_error = |source| Error::io(path, "opening", source);
        if is_absent(path) {
            return Err(Error::Absent { path: path.to_owned() });
        }
        std::fs::metadata(path).map_err(open_error)?;
        let checkpoint = kvant_io::open(path, &Limits::default())?;
        Ok(Self { checkpoint, path: path.to_owned(), demo: None })
    }

    /// Opens the demo model.
    fn demo() -> Result<Self, Error> {
        let demo = DemoFolder::new()?;
        let checkpoint = kvant_io::open(&demo.path(), &Limits::default())?;
        Ok(Self { checkpoint, path: "demo".into(), demo: Some(demo) })
    }

    /// Returns the tensors and metadata.
    pub fn checkpoint(&self) -> &dyn Checkpoint {
        &*self.checkpoint
    }

    /// Loads the tokenizer, for any architecture.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`]; errors of the tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        tokenizer(self.checkpoint.meta(), &self.path)
    }
}

/// Settings to run a network.
#[derive(Clone, Copy, Debug)]
pub struct RunSettings {
    /// The arithmetic of products with quantized weights. `None` is the fastest arithmetic on this processor: integers,
    /// or floats for [`Isa::Scalar`].
    pub arithmetic: Option<Arithmetic>,
    /// The format of the KV cache.
    pub kv: KvFormat,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { arithmetic: None, kv: KvFormat::F16 }
    }
}

impl RunSettings {
    /// Exact arithmetic: floats for activations and f32 for the KV cache. Only the weights are rounded.
    pub const EXACT: Self = Self { arithmetic: Some(Arithmetic::Float), kv: KvFormat::F32 };
}

/// Returns the backend with its fastest arithmetic: integers, or floats for [`Isa::Scalar`].
pub fn fast(backend: Backend) -> Backend {
    let scalar = backend.isa() == Isa::Scalar;
    backend.with(if scalar { Arithmetic::Float } else { Arithmetic::Integer(Precision::default()) })
}

/// An opened language model. The weights are mapped into memory, not loaded.
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
    /// Keeps the demo model's files alive.
    _demo: Option<DemoFolder>,
}

impl Model {
    /// Opens a language model. [`Opened::new`] describes the allowed paths.
    ///
    /// # Errors
    /// A path that is not a model; a model of an unsupported family.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::of(Opened::new(path)?)
    }

    /// Opens the demo model, even if the current folder has an entry with the name `demo`.
    ///
    /// # Errors
    /// Errors of the temporary folder, for example a full disk.
    pub fn demo() -> Result<Self, Error> {
        Self::of(Opened::demo()?)
    }

    fn of(Opened { checkpoint, path, demo }: Opened) -> Result<Self, Error> {
        Ok(Self { weights: Weights::new(checkpoint)?, path, _demo: demo })
    }

    /// Returns the weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Returns the path with which the model was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    /// See [`Opened::tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        tokenizer(self.weights.checkpoint().meta(), &self.path)
    }

    /// Loads the network.
    ///
    /// # Errors
    /// Errors of reading; a KV cache format that does not fit the size of the heads.
    pub fn load(&self, backend: Backend, run: RunSettings) -> Result<Transformer, Error> {
        let backend = match run.arithmetic {
            None => fast(backend),
            Some(arithmetic) => backend.with(arithmetic),
        };
        self.check_logits()?;
        Ok(Transformer::load(&self.weights, backend)?.with_kv_format(run.kv))
    }

    /// True if the model is made for vectors of texts ([`crate::Embed`]).
    pub fn gives_vectors(&self) -> bool {
        self.weights.spec().text_vector.is_some()
    }

    fn check_logits(&self) -> Result<(), Error> {
        match self.weights.spec().head() {
            Some(_) => Ok(()),
            None => Err(Error::Encoder { path: self.path.clone() }),
        }
    }

    /// Loads the network and the tokenizer at the same time, because both take a noticeable time even for a small
    /// model.
    ///
    /// # Errors
    /// See [`Model::load`] and [`Model::tokenizer`].
    pub fn load_speaker(
        &self,
        backend: Backend,
        run: RunSettings,
    ) -> Result<(Transformer, Arc<Tokenizer>), Error> {
        let (network, tokenizer) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("kvant-tokenizer".to_owned());
            let spawned = thread.spawn_scoped(scope, || self.tokenizer());
            let network = self.load(backend, run);
            let tokenizer = match spawned {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // If the system cannot start a thread, the tokenizer is loaded afterwards.
                Err(_) => self.tokenizer(),
            };
            (network, tokenizer)
        });
        Ok((network?, Arc::new(tokenizer?)))
    }

    /// Returns the model's sampling settings, from `generation_config.json` or from the GGUF keys `general.sampling.*`.
    /// kvant's defaults replace settings that the model does not give. The values are not checked.
    pub fn sampling(&self) -> Sampling {
        sampling(self.weights.checkpoint().meta())
    }
}

/// Returns the sampling settings in the metadata of a model, with the defaults for absent settings.
fn sampling(meta: &Meta) -> Sampling {
    // Each setting has a name in `generation_config.json`, and a name in GGUF after `general.sampling.`; `None` if it
    // does not exist there.
    let number = |hugging_face: Option<&str>, gguf: Option<&str>| match meta {
        Meta::HuggingFace(folder) => folder.generation_config.as_ref()?.get(hugging_face?)?.as_f64(),
        Meta::Gguf(metadata) => {
            let value = metadata.get(&format!("general.sampling.{}", gguf?))?;
            value.as_f64().or(value.as_u64().map(|n| n as f64))
        }
    };
    let set = |setting: &mut f32, hugging_face, gguf| {
        if let Some(value) = number(hugging_face, gguf) {
            *setting = value as f32;
        }
    };
    let set_count = |setting: &mut usize, hugging_face, gguf| {
        if let Some(value) = number(hugging_face, gguf) {
            *setting = value.max(0.0) as usize;
        }
    };
    let mut sampling = Sampling::default();
    set(&mut sampling.temperature, Some("temperature"), Some("temp"));
    set_count(&mut sampling.top_k, Some("top_k"), Some("top_k"));
    set(&mut sampling.top_p, Some("top_p"), Some("top_p"));
    set(&mut sampling.min_p, Some("min_p"), Some("min_p"));
    set(&mut sampling.typical_p, Some("typical_p"), None);
    set(&mut sampling.xtc.probability, None, Some("xtc_probability"));
    set(&mut sampling.xtc.threshold, None, Some("xtc_threshold"));
    set(&mut sampling.repeat_penalty, Some("repetition_penalty"), Some("penalty_repeat"));
    set_count(&mut sampling.repeat_last_n, None, Some("penalty_last_n"));
    if let Some(version) = number(None, Some("mirostat")) {
        sampling.mirostat.version = version as u32;
    }
    set(&mut sampling.mirostat.target_entropy, None, Some("mirostat_tau"));
    set(&mut sampling.mirostat.learning_rate, None, Some("mirostat_eta"));
    sampling
}

/// Loads the tokenizer of a checkpoint from its metadata. Errors name `path`, the checkpoint's path.
fn tokenizer(meta: &Meta, path: &Path) -> Result<Tokenizer, Error> {
    let locate = |source| match source {
        TokenizerError::File { .. } => Error::Tokenizer(source),
        source => Error::TokenizerOf { path: path.to_owned(), source: Box::new(source) },
    };
    Tokenizer::from_meta(meta).map_err(locate)?.ok_or_else(|| Error::NoTokenizer { path: path.to_owned() })
}

/// Returns the size of the context in tokens: `asked` if it has a value, otherwise the smaller of the model's context
/// and 4096.
///
/// # Errors
/// A context of 0 tokens, or a context that is longer than the model's context.
pub fn context(asked: Option<usize>, network: &Transformer) -> Result<usize, Error> {
    let longest = network.spec().context;
    match asked {
        None => Ok(longest.min(4096)),
        Some(0) => Err(Error::option("--ctx", "must be at least 1")),
        Some(n) => check_context(n, network).map(|()| n),
    }
}

/// Returns an error if `context` is longer than the model's context.
pub(crate) fn check_context(context: usize, network: &Transformer) -> Result<(), Error> {
    let longest = network.spec().context;
    if context > longest {
        let reason = format!("the model was made for at most {longest} tokens");
        return Err(Error::option(format!("--ctx {context}"), reason));
    }
    Ok(())
}

/// Reads a text file.
///
/// # Errors
/// Errors of the file system; [`Error::NotUtf8`].
pub fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "reading", e))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::NotUtf8 { path: path.to_owned(), at: e.utf8_error().valid_up_to() })
}

/// Reads a text file, or the standard input for `-`.
///
/// # Errors
/// Errors of reading; [`Error::NotUtf8`].
pub fn read_input(path: &Path) -> Result<String, Error> {
    if path != Path::new("-") {
        return read_text(path);
    }
    let mut bytes = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes);
    read.map_err(|e| Error::io(path, "reading", e))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::NotUtf8 { path: path.to_owned(), at: e.utf8_error().valid_up_to() })
}

/// Returns the lines of a text. An empty line is an empty text.
pub fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvant_io::{Metadata, Value};

    #[test]
    fn a_gguf_gives_its_sampling_settings() {
        let mut metadata = Metadata::default();
        assert_eq!(sampling(&Meta::Gguf(metadata.clone())), Sampling::default());
        for (key, value) in [
            ("temp", Value::F32(0.5)),
            ("top_k", Value::I32(7)),
            ("top_p", Value::F32(0.25)),
            ("min_p", Value::F32(0.125)),
            ("xtc_probability", Value::F32(0.75)),
            ("xtc_threshold", Value::F32(0.375)),
            ("penalty_repeat", Value::F32(1.5)),
            ("penalty_last_n", Value::I32(0)),
            ("mirostat", Value::I32(2)),
            ("mirostat_tau", Value::F32(3.0)),
            ("mirostat_eta", Value::F32(0.5)),
        ] {
            metadata.set(format!("general.sampling.{key}"), value);
        }
        let mut expected = Sampling {
            temperature: 0.5,
            top_k: 7,
            top_p: 0.25,
            min_p: 0.125,
            repeat_penalty: 1.5,
            repeat_last_n: 0,
            ..Sampling::default()
        };
        (expected.xtc.probability, expected.xtc.threshold) = (0.75, 0.375);
        (expected.mirostat.version, expected.mirostat.target_entropy) = (2, 3.0);
        expected.mirostat.learning_rate = 0.5;
        assert_eq!(sampling(&Meta::Gguf(metadata)), expected);
    }
}
