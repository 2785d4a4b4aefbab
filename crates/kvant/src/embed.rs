//! The job `embed`: computes the vectors of texts.

use crate::{Error, Model, RunSettings, fast};
use kvant_eval::Progress;
use kvant_io::OutputFile;
use kvant_kernels::{Arithmetic, Backend};
use kvant_model::{Pooling, Special, TextVector, Tokenizer, Transformer};
use serde::Serialize;
use std::path::Path;

/// The number of tokens of a batch. A single text may have more. It bounds the memory for activations; larger batches are
/// not faster.
const BATCH_TOKENS: usize = 1024;

/// Computes the vectors of texts.
///
/// ```no_run
/// use kvant::kernels::{Backend, Isa};
/// use kvant::{Embed, Model};
///
/// # fn main() -> Result<(), kvant::Error> {
/// let model = Model::open("all-MiniLM-L6-v2".as_ref())?;
/// let found = Embed::new(&model, &["a cat", "a dog"]).run(&Backend::new(Isa::best(), 2), &())?;
/// assert_eq!(found.vectors.len(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Embed<'a> {
    /// The model. A model that is not made for vectors gives the normalized hidden state of the last token.
    pub model: &'a Model,
    /// The texts.
    pub texts: &'a [&'a str],
    /// The pooling; `None` uses the model's own.
    pub pooling: Option<Pooling>,
    /// The arithmetic of matrix products. `None` is that of the job `run`.
    pub arithmetic: Option<Arithmetic>,
}

/// The vectors of texts.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Embedded {
    /// The number of elements of a vector.
    pub dimension: usize,
    /// The number of tokens of each text, after texts that are too long were cut.
    pub tokens: Vec<usize>,
    /// The number of texts that were cut.
    pub cut: usize,
    /// One vector for each text.
    pub vectors: Vec<Vec<f32>>,
}

impl<'a> Embed<'a> {
    /// Computes vectors with the model's own pooling, in the arithmetic of the job `run`.
    pub fn new(model: &'a Model, texts: &'a [&'a str]) -> Self {
        Self { model, texts, pooling: None, arithmetic: None }
    }

    /// Runs the job.
    ///
    /// # Errors
    /// Errors of loading and of the tokenizer; a text without tokens; [`kvant_quant::Error::Interrupted`].
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<Embedded, Error> {
        let encoder = TextEncoder::load(self.model, backend, self.arithmetic, self.pooling)?;
        progress.begin("embed");
        encoder.encode(self.texts, progress)
    }
}

/// A loaded model that computes vectors of texts.
pub struct TextEncoder {
    network: Transformer,
    reader: TextReader,
}

impl TextEncoder {
    /// Loads a model. [`Embed`] describes the parameters.
    ///
    /// # Errors
    /// Errors of reading and of the tokenizer.
    pub fn load(
        model: &Model,
        backend: &Backend,
        arithmetic: Option<Arithmetic>,
        pooling: Option<Pooling>,
    ) -> Result<Self, Error> {
        let reader = TextReader::new(model, model.tokenizer()?, pooling);
        let network = load(model, backend, RunSettings { arithmetic, ..RunSettings::EXACT })?;
        Ok(Self { network, reader })
    }

    /// The largest number of tokens of a text. Longer texts are cut.
    pub fn longest(&self) -> usize {
        self.reader.settings.longest
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.reader.tokenizer
    }

    /// Converts a text to tokens, as the model reads it. A text that is too long is cut.
    ///
    /// # Errors
    /// A text without tokens; errors of the tokenizer.
    pub fn ids(&self, text: &str) -> Result<TextIds, Error> {
        self.reader.ids(text)
    }

    /// Computes the vectors of texts.
    ///
    /// # Errors
    /// A text without tokens; errors of the tokenizer; [`kvant_quant::Error::Interrupted`].
    pub fn encode(&self, texts: &[&str], progress: &dyn Progress) -> Result<Embedded, Error> {
        let ids = texts.iter().map(|text| self.reader.ids(text)).collect::<Result<Vec<_>, _>>()?;
        self.encode_ids(&ids, progress)
    }

    /// Computes the vectors of texts that are tokens already.
    ///
    /// # Errors
    /// No token, too many tokens, or a token that is not in the vocabulary; [`kvant_quant::Error::Interrupted`].
    pub fn encode_ids(&self, ids: &[TextIds], progress: &dyn Progress) -> Result<Embedded, Error> {
        let (vocabulary, longest) = (self.network.spec().vocabulary, self.longest());
        for text in ids {
            let count = text.ids.len();
            if count == 0 || count > longest {
                return Err(Error::option("a text", format!("{count} tokens, expected 1 to {longest}")));
            }
            if let Some(id) = text.ids.iter().find(|&&id| id as usize >= vocabulary) {
                let reason = format!("token {id} is not in the vocabulary of {vocabulary} tokens");
                return Err(Error::option("a text", reason));
            }
        }
        let flat = vectors(&self.network, ids, &self.reader.settings, progress)?;
        let dimension = self.reader.settings.length(self.network.spec().hidden);
        Ok(Embedded {
            dimension,
            tokens: ids.iter().map(|text| text.ids.len()).collect(),
            cut: ids.iter().filter(|text| text.cut).count(),
            vectors: flat.chunks_exact(dimension).map(<[f32]>::to_vec).collect(),
        })
    }
}

impl Embedded {
    /// Writes the vectors as a NumPy file: one row for each text.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_npy(&self, path: &Path, force: bool) -> Result<(), Error> {
        let header = kvant_report::npy_header([self.vectors.len(), self.dimension]);
        let bytes = header.len() + self.vectors.len() * self.dimension * size_of::<f32>();
        let mut file = OutputFile::create(path, bytes as u64, force)?;
        file.write(&header)?;
        for vector in &self.vectors {
            file.write(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        Ok(file.finish()?)
    }
}

/// Loads the network of a model for vectors.
pub(crate) fn load(model: &Model, backend: &Backend, run: RunSettings) -> Result<Transformer, Error> {
    let backend = match run.arithmetic {
        None => fast(backend.clone()),
        Some(arithmetic) => backend.clone().with(arithmetic),
    };
    Ok(Transformer::load(model.weights(), backend)?)
}

/// Converts texts to tokens, as a model reads them.
pub(crate) struct TextReader {
    tokenizer: Tokenizer,
    pub settings: TextVector,
}

/// The tokens of a text.
#[derive(Clone, Debug)]
pub struct TextIds {
    /// The ids, with those that begin and end every text.
    pub ids: Vec<u32>,
    /// True if the text was too long.
    pub cut: bool,
}

impl TextReader {
    /// Takes the settings of `model`, or those of the last token if the model is not made for vectors.
    pub fn new(model: &Model, tokenizer: Tokenizer, pooling: Option<Pooling>) -> Self {
        let spec = model.weights().spec();
        let last = || TextVector {
            pooling: Pooling::Last,
            dense: Vec::new(),
            normalized: true,
            longest: spec.context,
        };
        let own = spec.text_vector.clone().unwrap_or_else(last);
        Self { tokenizer, settings: TextVector { pooling: pooling.unwrap_or(own.pooling), ..own } }
    }

    /// Returns the tokens of a text between the ids that begin and end every text.
    ///
    /// # Errors
    /// Errors of the tokenizer; an empty text, if nothing begins or ends a text.
    pub fn ids(&self, text: &str) -> Result<TextIds, Error> {
        let (before, after) = self.tokenizer.around();
        let inner = self.tokenizer.encode(text, Special { add: false, parse: false })?;
        let room = self.settings.longest.saturating_sub(before.len() + after.len());
        let kept = &inner[..inner.len().min(room)];
        let ids = [before, kept, after].concat();
        if ids.is_empty() || ids.len() > self.settings.longest {
            let reason = format!("{} tokens, expected 1 to {}", ids.len(), self.settings.longest);
            return Err(Error::option("a text", reason));
        }
        Ok(TextIds { cut: kept.len() < inner.len(), ids })
    }
}

/// Computes the vectors of texts, one after the other.
///
/// # Errors
/// Errors of the network; [`kvant_quant::Error::Interrupted`].
pub(crate) fn vectors(
    network: &Transformer,
    texts: &[TextIds],
    settings: &TextVector,
    progress: &dyn Progress,
) -> Result<Vec<f32>, Error> {
    let mut all = Vec::new();
    let mut next = 0;
    while next < texts.len() {
        if progress.stop() {
            return Err(kvant_quant::Error::Interrupted.into());
        }
        progress.at(next as u64, texts.len() as u64, "");
        let mut tokens = 0;
        let fits = |text: &&TextIds| {
            tokens += text.ids.len();
            tokens <= BATCH_TOKENS
        };
        let count = texts[next..].iter().take_while(fits).count().max(1);
        let batch: Vec<&[u32]> = texts[next..next + count].iter().map(|text| &text.ids[..]).collect();
        all.extend(network.text_vectors(&batch, settings)?);
        next += count;
    }
    progress.at(texts.len() as u64, texts.len() as u64, "");
    Ok(all)
}
