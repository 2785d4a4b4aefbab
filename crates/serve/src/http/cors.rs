//! CORS: pages of other origins that may use the server.

use axum::http::header::ORIGIN;
use axum::http::{HeaderValue, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// The origins whose pages may use the server.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Allows these origins. `*` allows all, and `localhost` allows every port of this machine.
    pub fn new(origins: impl IntoIterator<Item = String>) -> Self {
        Self(origins.into_iter().filter(|origin| !origin.is_empty()).collect())
    }

    fn allow(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.0.iter().any(|allowed| match allowed.as_str() {
            "*" => true,
            "localhost" => is_local(origin),
            allowed => allowed == origin,
        })
    }

    /// The layer that answers questions about origins; `None` if no other origin is allowed. Cookies are never allowed.
    pub fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let origins = self.clone();
        Some(
            CorsLayer::new()
                .allow_origin(AllowOrigin::predicate(move |origin, _| origins.allow(origin)))
                .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
                .allow_headers(AllowHeaders::mirror_request())
                .vary([ORIGIN]),
        )
    }
}

fn is_local(origin: &str) -> bool {
    let host = origin.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    matches!(host.as_deref(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

#[cfg(test)]
mod tests {
    use super::Origins;
    use axum::http::HeaderValue;

    #[test]
    fn only_named_origins_are_allowed() {
        let allowed = |origins: &str, origin: &'static str| {
            Origins::new([origins.to_owned()]).allow(&HeaderValue::from_static(origin))
        };
        assert!(allowed("*", "https://any.example"));
        assert!(allowed("https://a.example", "https://a.example"));
        assert!(!allowed("https://a.example", "https://a.example.evil"));
        for origin in
            ["http://localhost", "http://localhost:8080", "http://127.0.0.1:3000", "http://[::1]:3000"]
        {
            assert!(allowed("localhost", origin), "{origin}");
        }
        for origin in ["http://evil.com", "http://notlocalhost", "http://localhost.evil.com", "null"] {
            assert!(!allowed("localhost", origin), "{origin}");
        }
    }
}
