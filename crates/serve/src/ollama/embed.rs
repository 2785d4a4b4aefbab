//! `/api/embed`, and its older form `/api/embeddings`.

use crate::answers::with_warnings;
use crate::encoder::expect_dimension;
use crate::http::{ApiError, App, respond};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Computes the vectors of texts. Texts that are too long are cut, unless `truncate` is false.
pub async fn embed(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let begin = Instant::now();
    let mut fields = app.fields(body).await?;
    let encoder = app.encoder(fields.text("model")?.as_deref()).await?;
    let input = fields.take("input").ok_or_else(|| ApiError::parameter("input", "is necessary"))?;
    let dimensions = fields.integer(&["dimensions"], 0)?.filter(|dimensions| *dimensions != 0);
    let cut = fields.flag("truncate")?.unwrap_or(true);
    let name = encoder.name.clone();
    // An empty list only loads the model.
    let (vectors, tokens) = if input.as_array().is_some_and(Vec::is_empty) {
        (Vec::new(), 0)
    } else {
        let embedded = encoder.encode("input", input, cut).await?;
        expect_dimension(&embedded, dimensions)?;
        (embedded.vectors, embedded.tokens.iter().sum())
    };
    let body = json!({
        "model": name,
        "embeddings": vectors,
        "total_duration": u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
        "load_duration": 0,
        "prompt_eval_count": tokens,
    });
    Ok(with_warnings(respond(StatusCode::OK, &body), &fields.ignored()))
}

/// Computes the vector of one text.
pub async fn embeddings(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = app.fields(body).await?;
    let encoder = app.encoder(fields.text("model")?.as_deref()).await?;
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let mut embedded = encoder.encode("prompt", prompt.into(), true).await?;
    let body = json!({ "embedding": embedded.vectors.pop() });
    Ok(with_warnings(respond(StatusCode::OK, &body), &fields.ignored()))
}
