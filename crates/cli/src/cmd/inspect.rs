//! `kvant inspect`: what a file holds.

use crate::arguments::{Common, Inspect};
use crate::failure::Failure;
use crate::{open, output, terminal};
use kvant::io::{Array, Links, Meta, Value, parse_json, read_file};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::path::Path;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Inspected {
    /// `gguf` or `safetensors`.
    format: &'static str,
    /// Metadata; long arrays are cut to their length and first elements.
    metadata: Map<String, Json>,
    /// Tensors in file order.
    tensors: Vec<TensorLine>,
    /// How the file was made, where it says.
    card: Json,
}

/// One tensor.
#[derive(Serialize, schemars::JsonSchema)]
struct TensorLine {
    name: String,
    shape: Vec<usize>,
    /// A format's name, or the container's name of a type that kvant does not compute with.
    format: String,
    bytes: u64,
}

/// Elements of an array that are shown.
const SHOWN: usize = 8;

/// Bytes that a card beside a model may have.
const CARD_BYTES: usize = 1 << 20;

/// Runs the command.
pub fn run(common: &Common, arguments: &Inspect) -> Result<ExitCode, Failure> {
    let (checkpoint, _demo) = open::checkpoint(&arguments.file)?;
    let mut metadata = Map::new();
    let mut card = Json::Object(Map::new());
    let format = match checkpoint.meta() {
        Meta::Gguf(entries) => {
            for (key, value) in entries.iter() {
                if key == "kvant.card" {
                    let parsed = value.as_str().and_then(|s| parse_json(s.as_bytes(), CARD_BYTES).ok());
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
            for error in &folder.unreadable {
                terminal::say(format_args!("note: {error}"));
            }
            "safetensors"
        }
    };
    match measured(&arguments.file) {
        Ok(Some(measured)) => {
            if let Some(object) = card.as_object_mut() {
                object.insert("measured".into(), measured);
            }
        }
        Ok(None) => {}
        // The model itself can still be shown.
        Err(error) => terminal::say(format_args!("note: {error}")),
    }
    let tensors: Vec<TensorLine> = checkpoint
        .tensors()
        .iter()
        .map(|t| TensorLine {
            name: t.name.clone(),
            shape: t.shape.dimensions().to_vec(),
            format: t.type_name().to_owned(),
            bytes: t.bytes as u64,
        })
        .collect();
    let result = Inspected { format, metadata, tensors, card };
    if common.json {
        output::json(&result)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (key, value) in &result.metadata {
        let key = terminal::name(key);
        output::line(&format!("{key} = {}", shortened(&value.to_string())))?;
    }
    for t in &result.tensors {
        output::line(&format!(
            "{:<32} {:>8} {:>12}  {:?}",
            terminal::name(&t.name),
            t.format,
            output::size(t.bytes),
            t.shape
        ))?;
    }
    let total: u64 = result.tensors.iter().map(|t| t.bytes).sum();
    output::line(&format!("{} tensors, {} of tensor data", result.tensors.len(), output::size(total)))?;
    if result.card.as_object().is_some_and(|c| !c.is_empty()) {
        output::line(&format!("card: {}", serde_json::to_string_pretty(&result.card).unwrap_or_default()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The measurements that were taken when the file was made, if a card lies beside it.
fn measured(file: &Path) -> Result<Option<Json>, kvant::io::Error> {
    let Some(path) = output::card_path(file) else { return Ok(None) };
    let Some(bytes) = read_file(&path, Links::InsideModel, CARD_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| kvant::io::Error::Json { path, source })
}

fn shortened(text: &str) -> String {
    let cut: String = text.chars().take(160).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
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
            let first: Vec<Json> = $x.iter().take(SHOWN).map(|x| json!(x)).collect();
            if $x.len() <= SHOWN { json!(first) } else { json!({ "length": $x.len(), "first": first }) }
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
            json!({ "length": x.len(), "first": x.iter().take(SHOWN).map(shown_array).collect::<Vec<_>>() })
        }
    }
}
