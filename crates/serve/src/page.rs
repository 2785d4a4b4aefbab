//! The page at `/`: plain files in the folder `page`, which the program carries.

use crate::http::ApiError;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

/// The page may load its own files only, and talk to its own server only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../page/", $name)))),*] };
}

/// The names and texts of all files.
const FILES: &[(&str, &str)] = files![
    "api.js",
    "chat.js",
    "early.js",
    "files.js",
    "follow.js",
    "index.html",
    "inline.js",
    "main.js",
    "markdown.js",
    "messages.js",
    "render.js",
    "settings.js",
    "sidebar.js",
    "status.js",
    "store.js",
    "style.css",
    "words.js",
];

/// The page.
pub async fn index() -> Result<Response, ApiError> {
    file("index.html").ok_or_else(|| ApiError::not_found("/"))
}

/// A file of the page.
pub async fn part(Path(name): Path<String>) -> Result<Response, ApiError> {
    file(&name).ok_or_else(|| ApiError::not_found(&format!("/page/{name}")))
}

fn file(name: &str) -> Option<Response> {
    let (name, text) = FILES.iter().find(|(known, _)| *known == name)?;
    let kind = match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/html; charset=utf-8",
    };
    let mut response = Response::new(Body::from(*text));
    let headers: [(HeaderName, &'static str); 6] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        // A new version of the program has a new page.
        (CACHE_CONTROL, "no-cache"),
    ];
    for (header, value) in headers {
        response.headers_mut().insert(header, HeaderValue::from_static(value));
    }
    Some(response)
}
