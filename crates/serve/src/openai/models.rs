//! `/v1/models`.

use crate::http::{ApiError, App, respond};
use crate::service::Service;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

fn entry(service: &Service) -> Value {
    let spec = service.engine.network().spec();
    json!({
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "kvant",
        "meta": {
            "n_vocab": spec.vocabulary,
            "n_ctx": service.engine.settings().context,
            "n_ctx_train": spec.context,
            "n_embd": spec.hidden,
        },
    })
}

/// Lists the models.
pub async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let service = app.service()?;
    Ok(respond(StatusCode::OK, &json!({ "object": "list", "data": [entry(&service)] })))
}

/// Describes one model.
pub async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let service = app.service()?;
    if name == service.name {
        Ok(respond(StatusCode::OK, &entry(&service)))
    } else {
        Err(ApiError::not_found(&format!("/v1/models/{name}")))
    }
}
