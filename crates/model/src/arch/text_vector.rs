//! The vector of a text in the settings of a checkpoint: the modules of a sentence-transformers folder, and GGUF metadata.
//!
//! Source: `sentence-transformers`' `models/Pooling.py`, `Dense.py` and `Normalize.py`; llama.cpp's `gguf-py`
//! (`PoolingType`) and its `conversion/base.py`.

use super::settings::Settings;
use crate::{Error, Pooling, Slot, Source, Spec, TextVector};
use kvant_io::{Checkpoint, Meta, Module, Value};

/// The name of the linear map of module `index`, as llama.cpp names them. The network and the pooling are modules 0 and 1.
fn dense_name(index: usize) -> String {
    format!("dense_{index}")
}

/// Reads the vector of a text. `default` is the pooling of a network without settings; `None` if such a network gives no
/// vectors.
pub(super) fn read(
    settings: Settings,
    checkpoint: &dyn Checkpoint,
    architecture: &str,
    spec: &Spec,
    default: Option<Pooling>,
) -> Result<Option<TextVector>, Error> {
    let found = found(settings, checkpoint, architecture, spec.context, default)?;
    match found.as_ref().and_then(|vector| vector.misfit(spec.hidden)) {
        Some(misfit) => Err(settings.error("in_features", "the length of the vector before it", misfit)),
        None => Ok(found),
    }
}

fn found(
    settings: Settings,
    checkpoint: &dyn Checkpoint,
    architecture: &str,
    context: usize,
    default: Option<Pooling>,
) -> Result<Option<TextVector>, Error> {
    let of = |pooling, dense, normalized, longest: Option<usize>| TextVector {
        pooling,
        dense,
        normalized,
        longest: longest.unwrap_or(context).min(context),
    };
    let folder = match checkpoint.meta() {
        Meta::Gguf(_) => {
            let pooling = match settings.optional_length(&format!("{architecture}.pooling_type"))? {
                None | Some(4) => default,
                Some(1) => Some(Pooling::Mean),
                Some(2) => Some(Pooling::First),
                Some(3) => Some(Pooling::Last),
                Some(other) => {
                    let expected = "0 to 4: none, mean, cls, last, rank";
                    let key = format!("{architecture}.pooling_type");
                    return Err(settings.error(&key, expected, other.to_string()));
                }
            };
            let dense = (2..4).map(dense_name).map_while(|name| {
                let shape = checkpoint.info(&format!("{name}.weight"))?.shape;
                Some(Slot { name, rows: shape.rows(), columns: shape.columns(), bias: false, experts: None })
            });
            return Ok(pooling.map(|pooling| of(pooling, dense.collect(), true, None)));
        }
        Meta::HuggingFace(folder) => folder,
    };
    if folder.modules.is_empty() {
        return Ok(default.map(|pooling| of(pooling, Vec::new(), true, None)));
    }
    let (mut pooling, mut dense, mut normalized, mut longest) = (None, Vec::new(), false, None);
    for (index, module) in folder.modules.iter().enumerate() {
        let settings = Settings::Json(checkpoint.path(), &module.settings);
        match module.kind.as_str() {
            "Transformer" if index == 0 => longest = settings.optional_length("max_seq_length")?,
            "Pooling" if pooling.is_none() => pooling = Some(pooling_of(settings)?),
            "Dense" if pooling.is_some() && !normalized => dense.push(dense_of(settings, module, index)?),
            "Normalize" if pooling.is_some() => normalized = true,
            other => {
                let expected = "Transformer, Pooling, then Dense and Normalize";
                return Err(settings.error("modules.json: type", expected, other));
            }
        }
    }
    let pooling = pooling.ok_or_else(|| settings.error("modules.json: type", "a Pooling", "none"))?;
    Ok(Some(of(pooling, dense, normalized, longest)))
}

/// Reads the settings of a pooling. Newer files name the pooling, older files have a flag for each kind.
fn pooling_of(settings: Settings) -> Result<Pooling, Error> {
    let kinds = [("mean_tokens", Pooling::Mean), ("cls_token", Pooling::First), ("lasttoken", Pooling::Last)];
    let named = match settings.optional_text("pooling_mode")? {
        Some("mean") => Some(Pooling::Mean),
        Some("cls") => Some(Pooling::First),
        Some("lasttoken") => Some(Pooling::Last),
        Some(_) => None,
        None => {
            let others = ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"];
            let flag = |kind: &str| settings.flag(&format!("pooling_mode_{kind}"));
            let mut found = Vec::new();
            for (kind, pooling) in kinds {
                if flag(kind)? {
                    found.push(pooling);
                }
            }
            let mut other = false;
            for kind in others {
                other |= flag(kind)?;
            }
            // Several poolings at once give a longer vector, which GGUF cannot express.
            if let ([pooling], false) = (&found[..], other) { Some(*pooling) } else { None }
        }
    };
    named.ok_or_else(|| settings.error("1_Pooling: pooling_mode", "one of mean, cls, lasttoken", "another"))
}

/// Reads the settings of a linear map after the pooling.
fn dense_of(settings: Settings, module: &Module, index: usize) -> Result<Slot, Error> {
    let activation = settings.optional_text("activation_function")?.unwrap_or("Identity");
    if activation.rsplit('.').next() != Some("Identity") {
        let key = format!("{}: activation_function", module.folder);
        return Err(settings.error(&key, "Identity (others are not built yet)", activation));
    }
    if settings.optional_flag("bias")?.unwrap_or(true) {
        let key = format!("{}: bias", module.folder);
        return Err(settings.error(&key, "false (others are not built yet)", "true"));
    }
    Ok(Slot {
        name: dense_name(index),
        rows: settings.count("out_features")?,
        columns: settings.count("in_features")?,
        bias: false,
        experts: None,
    })
}

/// Returns the source of a linear map after the pooling in a Hugging Face checkpoint; `None` for other tensors.
pub(super) fn source(checkpoint: &dyn Checkpoint, name: &str) -> Option<Source> {
    let Meta::HuggingFace(folder) = checkpoint.meta() else { return None };
    let index: usize = name.strip_prefix("dense_")?.strip_suffix(".weight")?.parse().ok()?;
    Some(Source::Plain(format!("{}/linear.weight", folder.modules.get(index)?.folder)))
}

/// Sets the GGUF keys of the vector of a text.
pub(super) fn to_gguf(spec: &Spec, set: &mut dyn FnMut(&str, Value)) {
    let Some(vector) = &spec.text_vector else { return };
    let pooling = match vector.pooling {
        Pooling::Mean => 1,
        Pooling::First => 2,
        Pooling::Last => 3,
    };
    set("pooling_type", Value::U32(pooling));
    for map in &vector.dense {
        set(&format!("{}_feat_in", map.name), Value::U32(map.columns as u32));
        set(&format!("{}_feat_out", map.name), Value::U32(map.rows as u32));
    }
}

/// Returns a sentence for each property of the vector that GGUF has no key for.
pub(super) fn lost(spec: &Spec) -> Vec<String> {
    let Some(vector) = &spec.text_vector else { return Vec::new() };
    let mut sentences = Vec::new();
    if !vector.normalized {
        sentences.push(
            "the folder's vectors are not divided by their length: GGUF has no key for it, readers divide them"
                .to_owned(),
        );
    }
    if vector.longest < spec.context {
        sentences.push(format!(
            "the folder cuts texts after {} tokens: GGUF has no key for it, readers cut after {}",
            vector.longest, spec.context
        ));
    }
    sentences
}
