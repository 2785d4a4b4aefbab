//! What a checkpoint says about itself: GGUF's typed metadata, or a Hugging Face folder's JSON files.

use crate::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// One value of GGUF metadata, typed as in the file.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array: all elements of one type, kept compactly (a vocabulary has hundreds of thousands).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// Any integer type, if it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x),
            Self::I8(x) => x.try_into().ok(),
            Self::I16(x) => x.try_into().ok(),
            Self::I32(x) => x.try_into().ok(),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// Either float type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }
}

/// GGUF metadata: keys in file order, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Sets `key`, keeping its place if it is already there.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, v)) => *v = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Adds a key that is known to be new.
    pub(crate) fn push(&mut self, key: String, value: Value) {
        self.entries.push((key, value));
    }

    /// Removes every key for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.entries.retain(|(k, _)| keep(k));
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The JSON files of a Hugging Face folder, as far as they are there.
///
/// A file that is not needed for the weights may be unreadable; the others are `None` if there is no such file.
#[derive(Clone, Debug)]
pub struct HuggingFace {
    /// The folder.
    pub folder: PathBuf,
    /// `config.json`.
    pub config: serde_json::Value,
    /// `generation_config.json`.
    pub generation_config: Option<serde_json::Value>,
    /// `tokenizer.json`, unparsed: the tokenizer library reads it.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer.model`, a SentencePiece model in protocol buffers, unparsed.
    pub tokenizer_model: Option<Vec<u8>>,
    /// `vocab.json`, the tokens of an older byte-level BPE tokenizer, unparsed.
    pub vocab: Option<Vec<u8>>,
    /// `merges.txt`, the merges that belong to `vocab`, unparsed.
    pub merges: Option<Vec<u8>>,
    /// `added_tokens.json`, an object of texts and ids beside an older tokenizer.
    pub added_tokens: Option<serde_json::Value>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<serde_json::Value>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<serde_json::Value>,
    /// `chat_template.jinja`, where the template has a file of its own.
    pub chat_template: Option<String>,
    /// Files beside `config.json` that are there and cannot be read, each as the error that says why.
    pub unreadable: Vec<Arc<Error>>,
}

impl HuggingFace {
    /// Refuses a folder in which a file beside `config.json` cannot be read: for whoever needs the tokenizer or the
    /// settings of generation.
    ///
    /// # Errors
    /// The first of [`HuggingFace::unreadable`].
    pub fn check_readable(&self) -> Result<(), Error> {
        self.unreadable.first().map_or(Ok(()), |error| Err(Error::Earlier(error.clone())))
    }
}

/// What a checkpoint says about itself.
#[derive(Clone, Debug)]
pub enum Meta {
    /// A GGUF file's metadata.
    Gguf(Metadata),
    /// A Hugging Face folder's JSON files.
    HuggingFace(Box<HuggingFace>),
}
