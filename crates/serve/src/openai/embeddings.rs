//! `/v1/embeddings`.

use crate::answers::with_warnings;
use crate::encoder::expect_dimension;
use crate::http::{ApiError, App, respond};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;

/// Computes the vectors of texts.
pub async fn embeddings(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let encoder = app.encoder(fields.text("model")?.as_deref()).await?;
    let input = fields.take("input").ok_or_else(|| ApiError::parameter("input", "is necessary"))?;
    let cut = fields.flag("truncate")?.unwrap_or(false);
    let format = fields.text("encoding_format")?;
    let base64 = match format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(ApiError::parameter("encoding_format", "expected `float` or `base64`")),
    };
    let dimensions = fields.integer(&["dimensions"], 1)?;
    let name = encoder.name.clone();
    let embedded = encoder.encode("input", input, cut).await?;
    expect_dimension(&embedded, dimensions)?;
    let vector = |vector: &[f32]| {
        if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Value::from(STANDARD.encode(bytes))
        } else {
            json!(vector)
        }
    };
    let data: Vec<Value> = embedded
        .vectors
        .iter()
        .enumerate()
        .map(|(index, x)| json!({ "object": "embedding", "index": index, "embedding": vector(x) }))
        .collect();
    let tokens: usize = embedded.tokens.iter().sum();
    let mut ignored = fields.ignored();
    if embedded.cut > 0 {
        ignored.push(format!("the ends of {} texts that are too long", embedded.cut));
    }
    let body = json!({
        "object": "list",
        "data": data,
        "model": name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    Ok(with_warnings(respond(StatusCode::OK, &body), &ignored))
}
