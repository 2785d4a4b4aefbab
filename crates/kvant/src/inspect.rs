//! The job `inspect`: shows the content of a model file.

use crate::quantize::card_path;
use crate::{Error, Opened};
use kvant_io::{Array, Links, Meta, Value, parse_json, read_file};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// The content of a model file.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Inspected {
    /// `gguf` or `safetensors`.
    pub format: &'static str,
    /// Metadata. A long array is replaced by its length and its first elements.
    pub metadata: Map<String, Json>,
    /// Tensors in file order.
    pub tensors: Vec<InspectedTensor>,
    /// The card, a record of how the file was made. It is empty if the file has no card.
    pub card: Json,
    /// Error messages for parts of the model that cannot be read.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// One tensor.
#[derive(Serialize, schemars::JsonSchema)]
pub struct InspectedTensor {
    /// The tensor's name in the file.
    pub name: String,
    /// The tensor's dimensions: rows first, columns last.
    pub shape: Vec<usize>,
    /// The format's name, or the container's type name if kvant does not support the type.
    pub format: String,
    /// The tensor's size in bytes.
    pub bytes: u64,
}

/// Maximum number of elements of an array that are shown.
const MAX_SHOWN: usize = 8;

/// Maximum size of a card, in bytes.
const MAX_CARD_BYTES: usize = 1 << 20;

/// Reads metadata, tensors and card of the file or folder at `path`.
///
/// # Errors
/// See [`Opened::new`].
pub fn inspect(path: &Path) -> Result<Inspected, Error> {
    let opened = Opened::new(path)?;
    let checkpoint = opened.checkpoint();
    let (mut metadata, mut notes) = (Map::new(), Vec::new());
    let mut card = Json::Object(Map::new());
    let format = match checkpoint.meta() {
        Meta::Gguf(entries) => {
            for (key, value) in entries.iter() {
                if key == "kvant.card" {
                    let parsed = value.as_str().and_then(|s| parse_json(s.as_bytes(), MAX_CARD_BYTES).ok());
                    card = parsed.unwrap_or(card);
                } else {
                    metadata.insert(key.to_owned(), shown(value));
                }
            }
            "gguf"
        }
        Meta::HuggingFace(folder) => {
            metadata.insert("config".into(), folder.config.clone());
            if let Some(settings) = &folder.generation_config {
                metadata.insert("generation_config".into(), settings.clone());
            }
            notes.extend(folder.unreadable.iter().map(ToString::to_string));
            "safetensors"
        }
    };
    match measured(path) {
        Ok(Some(measured)) => {
            if let Some(object) = card.as_object_mut() {
                object.insert("measured".into(), measured);
            }
        }
        Ok(None) => {}
        // If the card is unreadable, the other content is shown without it.
        Err(error) => notes.push(error.to_string()),
    }
    let tensors = checkpoint.tensors().iter().map(|t| InspectedTensor {
        name: t.name.clone(),
        shape: t.shape.dimensions().to_vec(),
        format: t.type_name().to_owned(),
        bytes: t.bytes as u64,
    });
    Ok(Inspected { format, metadata, tensors: tensors.collect(), card, notes })
}

/// Reads the card with measurements, a separate file in the same folder; `None` if this file does not exist.
fn measured(file: &Path) -> Result<Option<Json>, kvant_io::Error> {
    let Some(path) = card_path(file) else { return Ok(None) };
    let Some(bytes) = read_file(&path, Links::InsideModel, MAX_CARD_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| kvant_io::Error::Json { path, source })
}

fn shown(value: &Value) -> Json {
    match value {
        Value::U8(x) => json!(x),
        Value::I8(x) => json!(x),
        Value::U16(x) => json!(x),
        Value::I16(x) => json!(x),
        Value::U32(x) => json!(x),
        Value::I32(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::I64(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::String(x) => json!(x),
        Value::Array(array) => shown_array(array),
    }
}

fn shown_array(array: &Array) -> Json {
    macro_rules! shown {
        ($x:expr) => {{
            let first: Vec<Json> = $x.iter().take(MAX_SHOWN).map(|x| json!(x)).collect();
            if $x.len() <= MAX_SHOWN { json!(first) } else { json!({ "length": $x.len(), "first": first }) }
        }};
    }
    match array {
        Array::U8(x) => shown!(x),
        Array::I8(x) => shown!(x),
        Array::U16(x) => shown!(x),
        Array::I16(x) => shown!(x),
        Array::U32(x) => shown!(x),
        Array::I32(x) => shown!(x),
        Array::F32(x) => shown!(x),
        Array::Bool(x) => shown!(x),
        Array::String(x) => shown!(x),
        Array::U64(x) => shown!(x),
        Array::I64(x) => shown!(x),
        Array::F64(x) => shown!(x),
        Array::Array(x) => {
            json!({ "length": x.len(), "first": x.iter().take(MAX_SHOWN).map(shown_array).collect::<Vec<_>>() })
        }
    }
}
