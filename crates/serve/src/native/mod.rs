//! The paths of llama.cpp's server that OpenAI does not have: health, metrics, properties, tokens, templates.

mod completion;
mod embeddings;

pub use completion::completion;
use completion::sampling_settings;
pub use embeddings::embeddings;

use crate::http::{ApiError, App, respond};
use crate::models::{Loaded, Slot};
use crate::openai;
use crate::service::Service;
use crate::turn::{Tools, conversation};
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use kvant::model::Special;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Tells if the server can answer.
pub async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.models()?.slots().iter().filter_map(Slot::loaded).any(|loaded| loaded.is_stopped()) {
        return Err(ApiError::server("the engine stopped after an error"));
    }
    Ok(respond(StatusCode::OK, &json!({ "status": "ok" })))
}

/// The description of all paths.
pub async fn openapi() -> Response {
    let mut response = Response::new(Body::from(include_str!("../openapi.json")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Metrics for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let models = app.models()?;
    let mut registry = Registry::with_prefix("kvant");
    models.metrics().register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| ApiError::server(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert("process-start-time-unix", app.started().into());
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// The query of a path that tells about one model.
#[derive(Deserialize)]
pub struct ModelQuery {
    /// The name; without one, the first model that is loaded.
    model: Option<String>,
}

/// Returns a language model that is loaded. A question about a model does not load it.
///
/// # Errors
/// The model is not loaded, or it is a model for vectors.
fn loaded(app: &App, query: &ModelQuery) -> Result<Arc<Service>, ApiError> {
    let models = app.models()?;
    let loaded = match &query.model {
        None => models.any_loaded()?,
        Some(name) => {
            let slot = &models.slots()[models.find(Some(name))?];
            slot.loaded().ok_or_else(|| ApiError::unavailable("the model is not loaded now"))?
        }
    };
    match loaded {
        Loaded::Speaker(service) => Ok(service),
        Loaded::Encoder(_) => Err(ApiError::not_supported("model", "it gives vectors of texts, and no text")),
    }
}

/// Properties of the server.
pub async fn props(
    State(app): State<Arc<App>>,
    Query(query): Query<ModelQuery>,
) -> Result<Response, ApiError> {
    let service = loaded(&app, &query)?;
    let settings = service.engine.settings();
    let tokenizer = service.tokenizer();
    let mut params = sampling_settings(&service.sampling);
    // Without a seed of the server, each request gets its own.
    params["seed"] = service.seed.map_or_else(|| json!(-1), Value::from);
    let text = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
    Ok(respond(
        StatusCode::OK,
        &json!({
            "model_path": service.path,
            "default_generation_settings": { "n_ctx": settings.context, "params": params },
            "total_slots": settings.parallel,
            "model_alias": service.name,
            "chat_template": service.template_source,
            "bos_token": text(tokenizer.vocabulary().bos),
            "eos_token": text(tokenizer.vocabulary().eos),
            "weights_bytes": service.size.weights_bytes,
            "weights_bytes_16bit": 2 * service.size.parameters,
            "state_bytes": service.engine.metrics().state_bytes(),
            "state_limit_bytes": settings.state_bytes,
            "models_limit_bytes": app.models()?.limit(),
            "build_info": openai::FINGERPRINT,
        }),
    ))
}

/// Lists the requests that run. Texts are not shown.
pub async fn slots(
    State(app): State<Arc<App>>,
    Query(query): Query<ModelQuery>,
) -> Result<Response, ApiError> {
    let service = loaded(&app, &query)?;
    let (settings, running) = (service.engine.settings(), service.engine.slots());
    let slot = |id: usize| {
        let state = running.get(id);
        json!({
            "id": id,
            "id_task": state.map_or(-1, |state| state.arrival as i64),
            "n_ctx": settings.context,
            "is_processing": state.is_some(),
            "n_prompt_tokens": state.map_or(0, |state| state.prompt),
            "n_prompt_tokens_processed": state.map_or(0, |state| state.read.min(state.prompt)),
            "next_token": [{
                "has_next_token": state.is_some(),
                "n_decoded": state.map_or(0, |state| state.answered),
                "n_remain": state.map_or(-1, |state| i64::try_from(state.limit.saturating_sub(state.answered)).unwrap_or(-1)),
            }],
        })
    };
    let slots: Vec<Value> = (0..settings.parallel.max(running.len())).map(slot).collect();
    Ok(respond(StatusCode::OK, &Value::Array(slots)))
}

/// A path that was turned off at the start.
pub async fn turned_off(uri: Uri) -> ApiError {
    ApiError::turned_off(uri.path())
}

/// Encodes a text.
pub async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let model = app.model(fields.text("model")?.as_deref()).await?;
    let tokens = app.blocking(move || {
        let text = fields.text("content")?.unwrap_or_default();
        let special = Special {
            add: fields.flag("add_special")?.unwrap_or(false),
            parse: fields.flag("parse_special")?.unwrap_or(true),
        };
        let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
        let tokens = model.tokenizer().encode(&text, special);
        let tokens = tokens.map_err(|error| ApiError::invalid(error.to_string()))?;
        let piece = |id: u32| {
            let bytes = model.tokenizer().bytes(id, true);
            let piece =
                String::from_utf8(bytes).map_or_else(|error| json!(error.into_bytes()), Value::String);
            json!({ "id": id, "piece": piece })
        };
        Ok::<Value, ApiError>(match with_pieces {
            true => tokens.into_iter().map(piece).collect(),
            false => json!(tokens),
        })
    });
    Ok(respond(StatusCode::OK, &json!({ "tokens": tokens.await?? })))
}

/// Decodes tokens.
pub async fn detokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let model = app.model(fields.text("model")?.as_deref()).await?;
    let size = model.tokenizer().len();
    let id = |value: &Value| value.as_u64().filter(|id| *id < size as u64).map(|id| id as u32);
    let ids: Option<Vec<u32>> = fields.list("tokens")?.unwrap_or_default().iter().map(id).collect();
    let ids = ids.ok_or_else(|| ApiError::parameter("tokens", "expected ids of the vocabulary"))?;
    let text = app.blocking(move || model.tokenizer().pieces(&ids)).await?;
    Ok(respond(StatusCode::OK, &json!({ "content": text })))
}

/// Renders a conversation.
pub async fn apply_template(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let service = app.service(fields.text("model")?.as_deref()).await?;
    let prompt = app.blocking(move || {
        let mut messages = openai::messages(&mut fields)?;
        let (ending, variables) = openai::rendering(&mut fields, &messages)?;
        let tools = Tools::read(&mut fields)?;
        let conversation = conversation(&service, &mut messages, &tools, ending, variables);
        Ok::<String, ApiError>(service.template.render_conversation(&conversation)?.into_text())
    });
    Ok(respond(StatusCode::OK, &json!({ "prompt": prompt.await?? })))
}
