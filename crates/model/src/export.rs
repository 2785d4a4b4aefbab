//! A model's metadata in GGUF's words, whatever container it came from.
//!
//! Source: llama.cpp's `gguf-py/gguf/constants.py` for keys, its conversion scripts for which are written.

use crate::{Error, Tokenizer, TokenizerError, Weights};
use kvant_io::{Checkpoint, HuggingFace, Meta, Metadata, Storage, Value};

/// Metadata for a GGUF of this model, and what it does not say.
pub struct Exported {
    /// A GGUF's own entries kept, a Hugging Face folder's translated.
    pub metadata: Metadata,
    /// What is lost, each in a sentence.
    pub notes: Vec<String>,
}

/// Metadata for a GGUF of this model: a GGUF's own entries kept, a Hugging Face folder's translated.
///
/// # Errors
/// [`Error::Tokenizer`] where a tokenizer cannot be expressed.
pub fn gguf_metadata(weights: &Weights) -> Result<Metadata, Error> {
    Ok(gguf_export(weights, false)?.metadata)
}

/// The same with notes on what it does not say.
///
/// # Errors
/// As [`gguf_metadata`].
pub fn gguf_metadata_and_notes(weights: &Weights) -> Result<Exported, Error> {
    gguf_export(weights, true)
}

fn gguf_export(weights: &Weights, with_notes: bool) -> Result<Exported, Error> {
    let mut exported = match weights.checkpoint().meta() {
        Meta::Gguf(metadata) => {
            let mut kept = metadata.clone();
            // Describes how the file was cut, not the model; the alignment is the writer's.
            kept.retain(|key| !key.starts_with("split.") && key != "general.alignment");
            Exported { metadata: kept, notes: Vec::new() }
        }
        Meta::HuggingFace(folder) => translated(weights, folder, with_notes)?,
    };
    exported.notes.extend(widened(weights.checkpoint()));
    Ok(exported)
}

/// A note for each number type that no network here is stored in, with its first tensor.
fn widened(checkpoint: &dyn Checkpoint) -> Vec<String> {
    let mut types: Vec<(&str, &str, &str, usize)> = Vec::new();
    for info in checkpoint.tensors() {
        let Storage::Numbers { kind, widened } = &info.storage else { continue };
        let found = types.iter_mut().find(|t| (t.0, t.1) == (kind.name(), widened.name()));
        match found {
            Some(group) => group.3 += 1,
            None => types.push((kind.name(), widened.name(), &info.name, 1)),
        }
    }
    let note = |(kind, widened, first, count): (&str, &str, &str, usize)| {
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        format!("{first}{more}: stored as {kind}, read as {widened}")
    };
    types.into_iter().map(note).collect()
}

fn translated(weights: &Weights, folder: &HuggingFace, with_notes: bool) -> Result<Exported, Error> {
    folder.check_readable()?;
    let mut metadata = Metadata::default();
    let mut notes = Vec::new();
    for (key, value) in weights.architecture().gguf_metadata(weights.spec()) {
        metadata.set(key, value);
    }
    metadata.set("general.type", Value::String("model".into()));
    let path = std::fs::canonicalize(&folder.folder).unwrap_or_else(|_| folder.folder.clone());
    if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
        metadata.set("general.name", Value::String(name.to_owned()));
    }
    if let Some(settings) = &folder.generation_config {
        sampling_defaults(settings, &mut metadata);
    }
    match Tokenizer::from_meta(weights.checkpoint().meta())? {
        None => metadata.set("tokenizer.ggml.model", Value::String("no_vocab".into())),
        Some(tokenizer) => {
            let rows = weights.spec().vocabulary;
            let here =
                |source| TokenizerError::File { path: folder.folder.clone(), source: Box::new(source) };
            for (key, value) in tokenizer.to_gguf(rows).map_err(here)? {
                metadata.set(key, value);
            }
            if with_notes {
                notes = tokenizer.gguf_notes(rows).map_err(here)?;
            }
        }
    }
    Ok(Exported { metadata, notes })
}

/// Upstream's `general.sampling.*` keys from a `generation_config.json`.
fn sampling_defaults(settings: &serde_json::Value, metadata: &mut Metadata) {
    let number = |key: &str| settings.get(key).and_then(serde_json::Value::as_f64);
    for (theirs, ours) in [
        ("temperature", "temp"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if let Some(x) = number(theirs) {
            metadata.set(format!("general.sampling.{ours}"), Value::F32(x as f32));
        }
    }
    if let Some(k) =
        settings.get("top_k").and_then(serde_json::Value::as_i64).and_then(|k| i32::try_from(k).ok())
    {
        metadata.set("general.sampling.top_k", Value::I32(k));
    }
}
