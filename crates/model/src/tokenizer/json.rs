//! Parses a `tokenizer.json` without a JSON tree of the whole file. Vocabularies and merges become lists. The small
//! parts become JSON values of bounded size.
//!
//! The memory is a small multiple of the file size, for every content of the file.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The parts of a `tokenizer.json`. The fields have the names of the keys in the file.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub added_tokens: Option<Vec<AddedToken>>,
    #[serde(default)]
    pub normalizer: Part,
    #[serde(default)]
    pub pre_tokenizer: Part,
    #[serde(default)]
    pub post_processor: Part,
    #[serde(default)]
    pub decoder: Part,
    pub model: Model,
}

/// A token that is listed separately from the model's vocabulary. The fields have the names of the keys in the file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct AddedToken {
    pub id: Option<u64>,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    pub normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

/// The model. It has the fields of all types of models; a field that a type does not have is `None`.
#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub vocab: Option<Vocab>,
    pub merges: Option<Vec<Merge>>,
    #[serde(default)]
    pub dropout: Option<f64>,
    #[serde(default)]
    pub unk_token: Option<String>,
    #[serde(default)]
    pub unk_id: Option<u64>,
    #[serde(default)]
    pub continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    pub fuse_unk: Option<bool>,
    #[serde(default)]
    pub byte_fallback: Option<bool>,
    #[serde(default)]
    pub ignore_merges: Option<bool>,
}

/// The vocabulary: tokens with their ids, or (Unigram) tokens in order of ids with their scores.
pub(super) enum Vocab {
    Ids(Vec<(String, u64)>),
    Scores(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object token → id, or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Vocab::Ids(all))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = list.next_element()? {
                    all.push(entry);
                }
                Ok(Vocab::Scores(all))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Two tokens that are merged into one. In the file they are a list of two texts, or (in older files) one text with a
/// space between the tokens.
pub(super) struct Merge(pub String, pub String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("two tokens, or both in one text with a space between")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Merge, E> {
                let two = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
                let (left, right) =
                    two.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(line), &self))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let two = (list.next_element()?, list.next_element()?, list.next_element::<IgnoredAny>()?);
                match two {
                    (Some(left), Some(right), None) => Ok(Merge(left, right)),
                    _ => Err(A::Error::custom("a merge takes two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A JSON value that takes at most `PART_BYTES` of memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Part(pub Value);

/// Largest memory of a part in bytes. For comparison: normalization rules (`precompiled_charsmap`) take half a
/// megabyte.
const PART_BYTES: usize = 16 << 20;

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        kvant_io::bounded_value(deserializer, PART_BYTES).map(Self)
    }
}

/// The steps of a part. A sequence has its steps in the array with the key `list`; nested sequences are flattened. Any
/// other part is a single step. `null` has no steps.
pub(super) fn steps(part: &Value, list: &str) -> Vec<Value> {
    match part {
        Value::Null => Vec::new(),
        part => match part[list].as_array() {
            Some(all) => all.iter().flat_map(|step| steps(step, list)).collect(),
            None => vec![part.clone()],
        },
    }
}

/// The type of a step; empty if the step has no type.
pub(super) fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or_default()
}
