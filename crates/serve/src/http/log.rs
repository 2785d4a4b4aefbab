//! One line of the log for each request, and its id. Neither bodies nor keys are written.

use super::keys::Client;
use crate::random::identifier;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;

/// The header with the id of a request. A client or a proxy may choose the id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Largest length of an id that a client chooses, in bytes.
const LONGEST_ID: usize = 128;

/// Answers a request, gives the response the id of the request, and writes a line of the log.
pub async fn log(request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let given = request.headers().get(&REQUEST_ID).filter(|id| is_plain(id)).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&identifier("req_")).ok());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let milliseconds = begin.elapsed().as_millis() as u64;
    let client = response.extensions().get::<Client>().map(|client| client.0.to_string());
    let (status, text) = (response.status().as_u16(), id.as_ref().and_then(|id| id.to_str().ok()));
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(id = text, client, %method, path, status, milliseconds, "request");
    } else {
        tracing::info!(id = text, client, %method, path, status, milliseconds, "request");
    }
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn is_plain(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty() && bytes.len() <= LONGEST_ID && bytes.iter().all(u8::is_ascii_graphic)
}
