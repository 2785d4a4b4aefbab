//! The paths of llama.cpp's server that OpenAI does not have: health, metrics, properties, tokens, templates.

use crate::http::{ApiError, App, Fields, Loaded, respond};
use crate::openai;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use kvant::model::{Conversation, Special};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;

/// Tells if the server can answer.
pub async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if let Loaded::Speaker(service) = app.loaded()?
        && service.engine.is_stopped()
    {
        return Err(ApiError::server("the engine stopped after an error"));
    }
    Ok(respond(StatusCode::OK, &json!({ "status": "ok" })))
}

/// Metrics for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let service = app.service()?;
    let mut registry = Registry::with_prefix("kvant");
    service.engine.metrics().register(&mut registry);
    let limit = prometheus_client::metrics::gauge::Gauge::<i64>::default();
    limit.set(i64::try_from(service.engine.settings().state_bytes).unwrap_or(i64::MAX));
    registry.register("state_limit_bytes", "Largest memory of states", limit);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| ApiError::server(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Properties of the server.
pub async fn props(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let service = app.service()?;
    let settings = service.engine.settings();
    let tokenizer = service.tokenizer();
    let text = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
    Ok(respond(
        StatusCode::OK,
        &json!({
            "default_generation_settings": { "n_ctx": settings.context },
            "total_slots": settings.parallel,
            "model_alias": service.name,
            "chat_template": tokenizer.chat_template().unwrap_or_default(),
            "bos_token": text(tokenizer.vocabulary().bos),
            "eos_token": text(tokenizer.vocabulary().eos),
            "weights_bytes": service.weights_bytes,
            "weights_bytes_16bit": 2 * service.parameters,
            "state_bytes": service.engine.metrics().state_bytes(),
            "state_limit_bytes": settings.state_bytes,
            "build_info": concat!("kvant-", env!("CARGO_PKG_VERSION")),
        }),
    ))
}

/// Encodes a text.
pub async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let service = app.service()?;
    let tokens = app.blocking(move || {
        let mut fields = Fields::parse(&body)?;
        let text = fields.text("content")?.unwrap_or_default();
        let special = Special {
            add: fields.flag("add_special")?.unwrap_or(false),
            parse: fields.flag("parse_special")?.unwrap_or(true),
        };
        let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
        let tokens = service.tokenizer().encode(&text, special);
        let tokens = tokens.map_err(|error| ApiError::invalid(error.to_string()))?;
        let piece = |id: u32| {
            let bytes = service.tokenizer().bytes(id, true);
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
    let service = app.service()?;
    let mut fields = Fields::parse(&body)?;
    let size = service.tokenizer().len();
    let id = |value: &Value| value.as_u64().filter(|id| *id < size as u64).map(|id| id as u32);
    let ids: Option<Vec<u32>> = fields.list("tokens")?.unwrap_or_default().iter().map(id).collect();
    let ids = ids.ok_or_else(|| ApiError::parameter("tokens", "expected ids of the vocabulary"))?;
    Ok(respond(StatusCode::OK, &json!({ "content": service.tokenizer().decode(&ids) })))
}

/// Renders a conversation.
pub async fn apply_template(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let service = app.service()?;
    let prompt = app.blocking(move || {
        let mut fields = Fields::parse(&body)?;
        let messages = openai::messages(&mut fields)?;
        let (ending, variables) = openai::rendering(&mut fields, &messages)?;
        let mut conversation = Conversation::new(&messages).ending(ending);
        for (name, value) in variables {
            conversation = conversation.variable(&name, value);
        }
        Ok::<String, ApiError>(service.template()?.render_conversation(&conversation)?.into_text())
    });
    Ok(respond(StatusCode::OK, &json!({ "prompt": prompt.await?? })))
}
