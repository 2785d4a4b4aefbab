//! Descriptions of the models in Ollama's form.

use crate::http::{ApiError, App, respond};
use crate::models::{Loaded, Slot};
use crate::service::timestamp;
use crate::speech::Speech;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The version of this program. Clients compare it with versions of Ollama, so the first number is not 0.
pub async fn version() -> Response {
    respond(StatusCode::OK, &json!({ "version": concat!("1.0.0-kvant-", env!("CARGO_PKG_VERSION")) }))
}

/// Lists the models.
pub async fn tags(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let models: Vec<Value> = app.models()?.slots().iter().map(entry).collect();
    Ok(respond(StatusCode::OK, &json!({ "models": models })))
}

/// Lists the loaded models.
pub async fn processes(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let entry = |slot: &Slot| {
        let mut entry = entry(slot);
        entry["expires_at"] = "2999-01-01T00:00:00Z".into();
        entry["size_vram"] = 0.into();
        entry["context_length"] = match slot.loaded()? {
            Loaded::Speaker(service) => service.engine.settings().context.into(),
            Loaded::Encoder(encoder) => encoder.longest().into(),
        };
        Some(entry)
    };
    let models: Vec<Value> = app.models()?.slots().iter().filter_map(entry).collect();
    Ok(respond(StatusCode::OK, &json!({ "models": models })))
}

/// Describes a model. It is not loaded for this.
pub async fn show(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let name = fields.text("model")?.or(fields.text("name")?).unwrap_or_default();
    let models = app.models()?.clone();
    let Some(index) = models.slots().iter().position(|slot| slot.has_name(&name)) else {
        return Err(ApiError::no_model(&name));
    };
    Ok(respond(StatusCode::OK, &app.blocking(move || described(&models.slots()[index])).await??))
}

fn described(slot: &Slot) -> Result<Value, ApiError> {
    let template = match slot.loaded() {
        Some(Loaded::Speaker(service)) => {
            Some(service.template_source.clone()).filter(|source| !source.is_empty())
        }
        Some(Loaded::Encoder(_)) => None,
        None => {
            let tokenizer = slot.model.tokenizer();
            let tokenizer = tokenizer.map_err(|error| ApiError::server(error.to_string()))?;
            tokenizer.chat_template().map(str::to_owned)
        }
    };
    let spec = slot.model.weights().spec();
    let architecture = spec.architecture;
    let mut info = Map::new();
    info.insert("general.architecture".to_owned(), architecture.into());
    info.insert("general.parameter_count".to_owned(), slot.size.parameters.into());
    info.insert(format!("{architecture}.context_length"), spec.context.into());
    info.insert(format!("{architecture}.embedding_length"), spec.hidden.into());
    info.insert(format!("{architecture}.block_count"), spec.blocks.len().into());
    let mut capabilities = Vec::new();
    if slot.model.gives_vectors() {
        capabilities.push("embedding");
    } else {
        capabilities.push("completion");
        if template.is_some() {
            capabilities.push("tools");
        }
        if template.as_deref().is_some_and(|template| Speech::of(template).has_parts()) {
            capabilities.push("thinking");
        }
    }
    Ok(json!({
        "modelfile": "",
        "parameters": "",
        "template": template.unwrap_or_default(),
        "details": details(slot),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": modified(slot),
    }))
}

fn entry(slot: &Slot) -> Value {
    json!({
        "name": slot.name,
        "model": slot.name,
        "modified_at": modified(slot),
        "size": slot.size.weights_bytes,
        "digest": "",
        "details": details(slot),
    })
}

/// The time of the last change of the model.
fn modified(slot: &Slot) -> String {
    slot.modified.map_or_else(timestamp, |time| time.to_string())
}

fn details(slot: &Slot) -> Value {
    let family = slot.model.weights().spec().architecture;
    let (number, unit) = match slot.size.parameters as f64 {
        count if count >= 1e9 => (count / 1e9, "B"),
        count => (count / 1e6, "M"),
    };
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": format!("{number:.1}{unit}"),
        "quantization_level": slot.size.format.to_uppercase(),
    })
}
