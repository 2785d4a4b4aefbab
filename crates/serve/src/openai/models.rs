//! `/v1/models`.

use crate::http::{ApiError, App, Loaded, respond};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

fn entry(loaded: &Loaded) -> Value {
    let (created, meta) = match loaded {
        Loaded::Speaker(service) => {
            let spec = service.engine.network().spec();
            let meta = json!({
                "n_vocab": spec.vocabulary,
                "n_ctx": service.engine.settings().context,
                "n_ctx_train": spec.context,
                "n_embd": spec.hidden,
            });
            (service.created, meta)
        }
        Loaded::Encoder(encoder) => (encoder.created, json!({ "n_ctx": encoder.longest() })),
    };
    json!({ "id": loaded.name(), "object": "model", "created": created, "owned_by": "kvant", "meta": meta })
}

/// Lists the models.
pub async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    Ok(respond(StatusCode::OK, &json!({ "object": "list", "data": [entry(app.loaded()?)] })))
}

/// Describes one model.
pub async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let loaded = app.loaded()?;
    if name == loaded.name() {
        Ok(respond(StatusCode::OK, &entry(loaded)))
    } else {
        Err(ApiError::not_found(&format!("/v1/models/{name}")))
    }
}
