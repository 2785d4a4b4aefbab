//! Metadata of a checkpoint: the typed metadata of a GGUF file, or the JSON files of a Hugging Face folder.

use crate::Error;
use crate::container::modules::Module;
use std::path::PathBuf;
use std::sync::Arc;

/// One value of GGUF metadata, with its type in the file.
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

/// A metadata array. All elements have the same type. They are stored compactly, because a vocabulary has hundreds of
/// thousands of elements.
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
    /// Returns the value of an integer of any type; `None` for a negative value or another type.
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

    /// Returns the value of an `f32` or `f64`; `None` for another type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// Returns the text of a string; `None` for another type.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// Returns a truth value; `None` for another type.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }
}

/// GGUF metadata: entries in file order. Every key occurs only once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// The value of `key`; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Sets the value of `key`. An existing key keeps its position in the order.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, v)) => *v = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Adds an entry. The caller guarantees that there is no entry with this key.
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

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The JSON files and tokenizer files of a Hugging Face folder.
///
/// A field is `None` if its file does not exist or cannot be read. The weights need only `config.json`, so errors of
/// the other files are collected in [`HuggingFace::unreadable`].
#[derive(Clone, Debug)]
pub struct HuggingFace {
    /// Path of the folder.
    pub folder: PathBuf,
    /// `config.json`.
    pub config: serde_json::Value,
    /// `generation_config.json`.
    pub generation_config: Option<serde_json::Value>,
    /// `tokenizer.json`, not parsed.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer.model`, a SentencePiece model in the protocol buffers format, not parsed.
    pub tokenizer_model: Option<Vec<u8>>,
    /// `vocab.json`, the tokens of an older byte-level BPE tokenizer, not parsed.
    pub vocab: Option<Vec<u8>>,
    /// `merges.txt`, the merges that belong to `vocab`, not parsed.
    pub merges: Option<Vec<u8>>,
    /// `added_tokens.json` of an older tokenizer: an object with the texts of tokens as keys and their ids as values.
    pub added_tokens: Option<serde_json::Value>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<serde_json::Value>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<serde_json::Value>,
    /// `chat_template.jinja`; `None` if the template has no separate file.
    pub chat_template: Option<String>,
    /// The modules of a sentence-transformers folder; empty for other folders.
    pub modules: Vec<Module>,
    /// One error for each file, other than `config.json`, that exists but cannot be read.
    pub unreadable: Vec<Arc<Error>>,
}

impl HuggingFace {
    /// Returns an error if a file other than `config.json` cannot be read. This is for callers that need the tokenizer
    /// or the generation settings.
    ///
    /// # Errors
    /// The first error in [`HuggingFace::unreadable`].
    pub fn check_readable(&self) -> Result<(), Error> {
        self.unreadable.first().map_or(Ok(()), |error| Err(Error::Earlier(error.clone())))
    }
}

/// Metadata of a checkpoint.
#[derive(Clone, Debug)]
pub enum Meta {
    /// The metadata of a GGUF file.
    Gguf(Metadata),
    /// The JSON files of a Hugging Face folder.
    HuggingFace(Box<HuggingFace>),
}
