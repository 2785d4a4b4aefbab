//! Errors as OpenAI's clients read them, with the types of llama.cpp's server.

use crate::{Failure, Refusal};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kvant::model::TemplateError;
use serde_json::{Value, json};

/// Largest body of a request, in bytes.
pub const BODY_BYTES: usize = 16 << 20;

/// An error of a request.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// The name of the parameter with the error.
    parameter: Option<String>,
    /// The tokens of a prompt that is too long, and those of the context.
    tokens: Option<(usize, usize)>,
}

impl ApiError {
    fn of(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), parameter: None, tokens: None }
    }

    /// A request with an error.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A parameter with an error.
    pub fn parameter(name: &str, message: impl std::fmt::Display) -> Self {
        let error = Self::invalid(format!("`{name}`: {message}"));
        Self { parameter: Some(name.to_owned()), ..error }
    }

    /// A function that this server or its model does not have. The request is at fault: clients repeat requests after
    /// errors of the server.
    pub fn not_supported(name: &str, message: impl std::fmt::Display) -> Self {
        let error = Self::of(StatusCode::BAD_REQUEST, "not_supported_error", format!("`{name}`: {message}"));
        Self { parameter: Some(name.to_owned()), ..error }
    }

    /// A path that was turned off.
    pub fn turned_off(path: &str) -> Self {
        let message = format!("{path} was turned off at the start of the server");
        Self::of(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// A request without a valid key.
    pub fn unauthorized() -> Self {
        Self::of(StatusCode::UNAUTHORIZED, "authentication_error", "Invalid API Key")
    }

    /// A name that no model has.
    pub fn no_model(name: &str) -> Self {
        let error = Self::of(StatusCode::NOT_FOUND, "not_found_error", format!("model '{name}' not found"));
        Self { parameter: Some("model".to_owned()), ..error }
    }

    /// A path that does not exist.
    pub fn not_found(path: &str) -> Self {
        Self::of(StatusCode::NOT_FOUND, "not_found_error", format!("{path}: no such path"))
    }

    /// A method that the path does not have.
    pub fn method(path: &str) -> Self {
        Self::of(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", format!("{path}: another method"))
    }

    /// A body that is too large.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes");
        Self::of(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// Headers that are too large.
    pub fn large_headers(limit: usize) -> Self {
        let message = format!("the headers are larger than {limit} bytes");
        Self::of(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "invalid_request_error", message)
    }

    /// A body that is compressed.
    pub fn compressed() -> Self {
        let message = "the body is compressed; this server reads plain JSON";
        Self::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// A model that is not loaded yet, or a server that ends.
    pub fn unavailable(message: &str) -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    /// Too many requests wait.
    pub fn busy() -> Self {
        let message = "too many requests wait already; try again later";
        Self::of(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
    }

    /// An error of the server.
    pub fn server(message: impl Into<String>) -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error as JSON.
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "code": self.status.as_u16(),
            "message": self.message,
            "type": self.kind,
            "param": self.parameter,
        });
        if let Some((prompt, context)) = self.tokens {
            error["n_prompt_tokens"] = prompt.into();
            error["n_ctx"] = context.into();
        }
        json!({ "error": error })
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Long { tokens, context } => {
                let error = Self::of(StatusCode::BAD_REQUEST, "exceed_context_size_error", message);
                Self { tokens: Some((tokens, context)), ..error }
            }
            Refusal::Empty | Refusal::Memory { .. } | Refusal::Token { .. } | Refusal::Sampling(_) => {
                Self::invalid(message)
            }
            Refusal::Busy { .. } => Self::of(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message),
            Refusal::Draining => Self::unavailable(&message),
            Refusal::Stopped => Self::server(message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::Deadline => Self::of(StatusCode::REQUEST_TIMEOUT, "timeout_error", message),
            // The grammar came with the request.
            Failure::Grammar(_) => Self::invalid(message),
            Failure::Network(_) => Self::server(message),
        }
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = respond(self.status, &self.to_json());
        if self.status == StatusCode::TOO_MANY_REQUESTS || self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // The path can need another form of the error.
        response.extensions_mut().insert(self);
        response
    }
}

/// A response with a JSON body.
pub fn respond(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}
