//! Descriptions of the model in Ollama's form.

use super::OllamaError;
use crate::http::{ApiError, App, Fields, respond};
use crate::service::{Service, timestamp};
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
pub async fn tags(State(app): State<Arc<App>>) -> Result<Response, OllamaError> {
    let service = app.service()?;
    Ok(respond(StatusCode::OK, &json!({ "models": [entry(&service)] })))
}

/// Lists the loaded models.
pub async fn processes(State(app): State<Arc<App>>) -> Result<Response, OllamaError> {
    let service = app.service()?;
    let mut entry = entry(&service);
    entry["expires_at"] = "2999-01-01T00:00:00Z".into();
    entry["size_vram"] = 0.into();
    entry["context_length"] = service.engine.settings().context.into();
    Ok(respond(StatusCode::OK, &json!({ "models": [entry] })))
}

/// Describes a model.
pub async fn show(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, OllamaError> {
    let service = app.service()?;
    let mut fields = Fields::parse(&body)?;
    let name = fields.text("model")?.or(fields.text("name")?).unwrap_or_default();
    if name != service.name && name.strip_suffix(":latest") != Some(&service.name) {
        return Err(ApiError::not_found(&format!("model '{name}'")).into());
    }
    let spec = service.engine.network().spec();
    let architecture = spec.architecture;
    let mut info = Map::new();
    info.insert("general.architecture".to_owned(), architecture.into());
    info.insert("general.parameter_count".to_owned(), service.parameters.into());
    info.insert(format!("{architecture}.context_length"), spec.context.into());
    info.insert(format!("{architecture}.embedding_length"), spec.hidden.into());
    info.insert(format!("{architecture}.block_count"), spec.blocks.len().into());
    let mut capabilities = vec!["completion"];
    if service.template.is_some() {
        capabilities.push("tools");
    }
    if service.speech.has_parts() {
        capabilities.push("thinking");
    }
    Ok(respond(
        StatusCode::OK,
        &json!({
            "modelfile": "",
            "parameters": "",
            "template": service.tokenizer().chat_template().unwrap_or_default(),
            "details": details(&service),
            "model_info": info,
            "capabilities": capabilities,
            "modified_at": timestamp(),
        }),
    ))
}

fn entry(service: &Service) -> Value {
    json!({
        "name": service.name,
        "model": service.name,
        "modified_at": timestamp(),
        "size": service.weights_bytes,
        "digest": "",
        "details": details(service),
    })
}

fn details(service: &Service) -> Value {
    let family = service.engine.network().spec().architecture;
    let (number, unit) = match service.parameters as f64 {
        count if count >= 1e9 => (count / 1e9, "B"),
        count => (count / 1e6, "M"),
    };
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": format!("{number:.1}{unit}"),
        "quantization_level": service.format.to_uppercase(),
    })
}
