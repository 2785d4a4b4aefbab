//! `/v1/models`.

use crate::http::{ApiError, App, respond};
use crate::models::{Loaded, Slot};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

fn entry(slot: &Slot) -> Value {
    let loaded = slot.loaded();
    let spec = slot.model.weights().spec();
    let context = match &loaded {
        Some(Loaded::Speaker(service)) => Some(service.engine.settings().context),
        Some(Loaded::Encoder(encoder)) => Some(encoder.longest()),
        None => None,
    };
    json!({
        "id": slot.name,
        "object": "model",
        "created": slot.created,
        "owned_by": "kvant",
        "status": { "value": if loaded.is_some() { "loaded" } else { "unloaded" } },
        "meta": {
            "n_vocab": spec.vocabulary,
            "n_ctx": context,
            "n_ctx_train": spec.context,
            "n_embd": spec.hidden,
            "n_params": slot.size.parameters,
            "size": slot.size.weights_bytes,
        },
    })
}

/// Lists the models.
pub async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let data: Vec<Value> = app.models()?.slots().iter().map(entry).collect();
    Ok(respond(StatusCode::OK, &json!({ "object": "list", "data": data })))
}

/// Describes one model. As everywhere, the only model has every name.
pub async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let models = app.models()?;
    Ok(respond(StatusCode::OK, &entry(&models.slots()[models.find(Some(&name))?])))
}
