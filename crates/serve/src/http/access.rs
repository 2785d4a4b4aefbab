//! Checks of all requests: keys, and the form of errors.

use super::app::App;
use super::arrival::ArrivingBody;
use super::body::SharedBody;
use super::connections::HEADER_BYTES;
use super::error::{ApiError, BODY_BYTES};
use super::keys::Client;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tower_http::timeout::TimeoutBody;

/// A client has this time to send a body.
const BODY_TIME: Duration = Duration::from_secs(300);
/// A client may pause for this time while it sends a body.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// Paths that need no key.
const PUBLIC: &[&str] = &["/", "/health", "/v1/health", "/models", "/v1/models", "/openapi.json"];

/// True if a path needs no key. The page asks for the key itself.
fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path) || path.starts_with("/page/")
}

/// Refuses requests without a valid key, and large bodies while too many of them arrive.
pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let waits = parts.headers.contains_key(EXPECT);
    let (body, rest) = SharedBody::new(body);
    let body = Body::new(TimeoutBody::new(BODY_PAUSE, body));
    let ends = app.ends();
    let body = ArrivingBody::new(body, async move {
        tokio::select! { () = ends => {}, () = tokio::time::sleep(BODY_TIME) => {} }
    });
    let response = answer(&app, Request::from_parts(parts, Body::new(body)), next).await;
    rest.discard(waits);
    if response.status().is_client_error() && !is_json(&response) && app.is_ending() {
        return ApiError::unavailable("the server ends").into_response();
    }
    response
}

/// Checks a request and answers it.
async fn answer(app: &App, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() > HEADER_BYTES {
        return ApiError::large_headers(HEADER_BYTES).into_response();
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return ApiError::compressed().into_response();
    }
    let mut known = None;
    if !app.keys().is_empty() {
        let number = key(request.headers()).and_then(|key| app.keys().find(key));
        match number {
            Some(number) => {
                let client = Client(number.to_string().into());
                request.extensions_mut().insert(client.clone());
                known = Some(client);
            }
            None if is_public(request.uri().path()) => {}
            None => return ApiError::unauthorized().into_response(),
        }
    }
    // Without a length, a body can have any size.
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let has_body = length.is_some() || request.headers().contains_key(TRANSFER_ENCODING);
    let most = if has_body { length.unwrap_or(BODY_BYTES).min(BODY_BYTES) } else { 0 };
    let memory = match app.memory_for_body(most) {
        Ok(memory) => memory,
        Err(error) => return error.into_response(),
    };
    let mut response = next.run(request).await;
    // For the log.
    known.map(|client| response.extensions_mut().insert(client));
    drop(memory);
    response
}

/// The key in the headers of a request.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
}

fn is_json(response: &Response) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().starts_with(b"application/json") || kind.as_bytes().starts_with(b"text/event-stream")
    })
}

/// Gives errors of reading a body the form of all errors.
pub async fn body_errors(response: Response) -> Response {
    let is_json = is_json(&response);
    match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE if !is_json => ApiError::too_large(BODY_BYTES).into_response(),
        status if status.is_client_error() && !is_json => {
            ApiError::invalid("the request cannot be read").into_response()
        }
        _ => response,
    }
}
