//! `/embeddings`: llama.cpp's own form.

use crate::answers::with_warnings;
use crate::http::{ApiError, App, respond};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// Computes the vectors of texts.
pub async fn embeddings(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let encoder = app.encoder(fields.text("model")?.as_deref()).await?;
    let input = fields.take("input").or(fields.take("content"));
    let input = input.ok_or_else(|| ApiError::parameter("input", "is necessary"))?;
    let cut = fields.flag("truncate")?.unwrap_or(false);
    let embedded = encoder.encode("input", input, cut).await?;
    // As llama.cpp's server: a list with one vector for each text.
    let entry = |(index, vector): (usize, &Vec<f32>)| json!({ "index": index, "embedding": [vector] });
    let body: Vec<Value> = embedded.vectors.iter().enumerate().map(entry).collect();
    Ok(with_warnings(respond(StatusCode::OK, &Value::Array(body)), &fields.ignored()))
}
