//! A model's metadata as GGUF entries, from a GGUF or a Hugging Face checkpoint.
//!
//! Source: llama.cpp's `gguf-py/gguf/constants.py` for the keys; its conversion scripts for the selection of keys.

use crate::arch::block_of;
use crate::{Error, Tokenizer, TokenizerError, Weights};
use kvant_io::{HuggingFace, Meta, Metadata, Storage, Value};

/// Metadata for a GGUF of this model, and notes on the information that it cannot express.
pub struct Exported {
    /// The entries of a GGUF, unchanged, or the translated entries of a Hugging Face folder.
    pub metadata: Metadata,
    /// The information that is lost, one sentence each.
    pub notes: Vec<String>,
}

/// Returns the metadata for a GGUF of this model: the entries of a GGUF, unchanged, or the translated entries of a
/// Hugging Face folder.
///
/// # Errors
/// [`Error::Tokenizer`] if GGUF cannot express the tokenizer.
pub fn gguf_metadata(weights: &Weights) -> Result<Metadata, Error> {
    Ok(gguf_export(weights, false)?.metadata)
}

/// Like [`gguf_metadata`], with notes on the information that is lost.
///
/// # Errors
/// See [`gguf_metadata`].
pub fn gguf_metadata_and_notes(weights: &Weights) -> Result<Exported, Error> {
    gguf_export(weights, true)
}

fn gguf_export(weights: &Weights, with_notes: bool) -> Result<Exported, Error> {
    let mut exported = match weights.checkpoint().meta() {
        Meta::Gguf(metadata) => {
            let mut kept = metadata.clone();
            // These keys describe the split into files, not the model. The writer of the file chooses the alignment.
            kept.retain(|key| !key.starts_with("split.") && key != "general.alignment");
            Exported { metadata: kept, notes: Vec::new() }
        }
        Meta::HuggingFace(folder) => translate(weights, folder, with_notes)?,
    };
    exported.notes.extend(widened_types(weights));
    exported.notes.extend(left_out_blocks(weights));
    Ok(exported)
}

/// Returns a note if the checkpoint has blocks after the network's last block, which predict further tokens.
fn left_out_blocks(weights: &Weights) -> Option<String> {
    let blocks = weights.spec().blocks.len();
    let names = weights.checkpoint().tensors().iter().map(|info| info.name.as_str());
    let mut after = names.filter(|name| block_of(name).is_some_and(|index| index >= blocks));
    let first = after.next()?;
    let more = after.count();
    Some(format!("{first} and {more} more: left out, because they predict further tokens for other programs"))
}

/// Returns a note for each number type that kvant reads as a wider type, with the name of its first tensor.
fn widened_types(weights: &Weights) -> Vec<String> {
    let mut types: Vec<(&str, &str, &str, usize)> = Vec::new();
    for info in weights.checkpoint().tensors() {
        let Storage::Numbers { kind, widened } = &info.storage else { continue };
        if weights.reads_bytes(&info.name) {
            continue;
        }
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

/// Translates the settings of a Hugging Face folder to GGUF entries.
fn translate(weights: &Weights, folder: &HuggingFace, with_notes: bool) -> Result<Exported, Error> {
    folder.check_readable()?;
    let mut metadata = Metadata::default();
    let mut notes = Vec::new();
    for (key, value) in weights.architecture().gguf_metadata(weights.spec()) {
        metadata.set(key, value);
    }
    if with_notes {
        notes.extend(weights.architecture().lost_in_llama_cpp(weights.spec()));
        notes.extend(left_out_encoders(&folder.config));
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
            let with_path =
                |source| TokenizerError::File { path: folder.folder.clone(), source: Box::new(source) };
            for (key, value) in tokenizer.to_gguf(rows).map_err(with_path)? {
                metadata.set(key, value);
            }
            if with_notes {
                notes.extend(tokenizer.gguf_notes(rows).map_err(with_path)?);
            }
        }
    }
    notes.extend(folder.generation_config.as_ref().and_then(lost_sampling));
    Ok(Exported { metadata, notes })
}

/// Returns a note for each encoder that a folder has beside its text part.
fn left_out_encoders(settings: &serde_json::Value) -> Vec<String> {
    let encoders = [("vision_config", "images"), ("audio_config", "sound")];
    let found = encoders.into_iter().filter(|(key, _)| settings.get(key).is_some_and(|x| x.is_object()));
    found.map(|(key, kind)| format!("{key}: the encoder of {kind} is left out")).collect()
}

/// Sets llama.cpp's `general.sampling.*` keys from a `generation_config.json`.
fn sampling_defaults(settings: &serde_json::Value, metadata: &mut Metadata) {
    let number = |key: &str| settings.get(key).and_then(serde_json::Value::as_f64);
    for (hugging_face, gguf) in [
        ("temperature", "temp"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if let Some(x) = number(hugging_face) {
            metadata.set(format!("general.sampling.{gguf}"), Value::F32(x as f32));
        }
    }
    if let Some(k) =
        settings.get("top_k").and_then(serde_json::Value::as_i64).and_then(|k| i32::try_from(k).ok())
    {
        metadata.set("general.sampling.top_k", Value::I32(k));
    }
}

/// Returns a note if `generation_config.json` turns on locally typical sampling, for which GGUF has no key.
fn lost_sampling(settings: &serde_json::Value) -> Option<String> {
    let mass = settings.get("typical_p")?.as_f64()?;
    (mass < 1.0)
        .then(|| format!("generation_config.json: typical_p {mass} is left out; --typical {mass} sets it"))
}
