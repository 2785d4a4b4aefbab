//! The server: its routes, its threads, its end.
//!
//! Handlers never compute on the threads that serve connections: texts are rendered and encoded on a bounded number of
//! other threads, and the engine has a thread of its own. So `/health` and `/metrics` answer at once under any load.

use crate::http::{ApiError, App, BODY_BYTES, Keys, Origins, access, log, serve};
use crate::models::{Loaded, Models};
use crate::{anthropic, native, ollama, openai, page, rerank};
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Uri;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;

/// Number of threads for work that takes noticeable time.
const BLOCKING_THREADS: usize = 8;

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The page at `/`.
    pub page: bool,
    /// The list of running requests at `/slots`.
    pub slots: bool,
    /// The metrics at `/metrics`.
    pub metrics: bool,
    /// Other origins whose pages may use the server.
    pub origins: Origins,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { page: true, slots: true, metrics: true, origins: Origins::default() }
    }
}

/// A server that listens, and that answers as soon as its model is loaded.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
}

impl Server {
    /// Opens a port. Port 0 chooses a free one ([`Server::address`]).
    ///
    /// # Errors
    /// A host that is unknown, or a port that is in use.
    pub fn bind(host: &str, port: u16, keys: Keys, options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let app = Arc::new(App::new(keys));
        Ok(Self { app, listener, address, options })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `ends` returns true, on threads of its own. The first model is loaded while `/health` already answers;
    /// `ready` is called after it. Requests that run when `ends` becomes true are answered.
    ///
    /// # Errors
    /// Errors of loading and of `ready`; the system cannot start threads.
    pub fn run<E: From<io::Error> + From<kvant::Error>>(
        self,
        models: Models,
        ready: impl FnOnce(&Loaded) -> Result<(), E>,
        ends: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), E> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("kvant-http")
            .enable_all()
            .build()?;
        let app = self.app.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(self.listener) })?;
        let (of_ends, options) = (app.clone(), self.options.clone());
        let connections = runtime.spawn(async move {
            let end = async {
                let asked = async {
                    while !ends() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                };
                tokio::select! { () = asked => {}, _ = stopped => {} }
                of_ends.end();
            };
            serve(listener, router(app, &options), end).await;
        });
        let models = Arc::new(models);
        let loaded = runtime.block_on(models.clone().load_first()).map_err(E::from);
        let began = loaded.and_then(|loaded| {
            self.app.set(models);
            ready(&loaded)
        });
        if began.is_err() {
            drop(stop);
            runtime.shutdown_timeout(Duration::from_secs(1));
            return began;
        }
        let served = runtime.block_on(connections);
        drop(stop);
        runtime.shutdown_timeout(Duration::from_secs(1));
        served.map_err(|error| E::from(io::Error::other(error)))
    }
}

/// Gives errors the form of the interface that the path belongs to.
async fn in_form_of_the_interface(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let body = match path.as_str() {
            path if path.starts_with("/api/") => ollama::error(&error),
            path if path.starts_with("/v1/messages") => anthropic::error(&error),
            _ => return response,
        };
        *response.body_mut() = Body::from(body.to_string());
    }
    response
}

/// All routes.
fn router(app: Arc<App>, options: &ServerOptions) -> Router {
    let mut router = Router::new();
    if options.page {
        router = router.route("/", get(page::index)).route("/page/{name}", get(page::part));
    }
    let slots = if options.slots { get(native::slots) } else { get(native::turned_off) };
    let metrics = if options.metrics { get(native::metrics) } else { get(native::turned_off) };
    let router = router
        .route("/slots", slots)
        .route("/openapi.json", get(native::openapi))
        .route("/health", get(native::health))
        .route("/metrics", metrics)
        .route("/props", get(native::props))
        .route("/tokenize", post(native::tokenize))
        .route("/detokenize", post(native::detokenize))
        .route("/apply-template", post(native::apply_template))
        .route("/models", get(openai::models))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{name}", get(openai::model))
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/chat/completions", post(openai::chat_completions))
        .route("/v1/chat/completions/input_tokens", post(openai::input_tokens))
        .route("/chat/completions/input_tokens", post(openai::input_tokens))
        .route("/v1/responses/input_tokens", post(openai::response_input_tokens))
        .route("/v1/responses", post(openai::responses))
        .route("/responses", post(openai::responses))
        .route("/completion", post(native::completion))
        .route("/completions", post(native::completion))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v1/reranking", post(rerank::rerank))
        .route("/rerank", post(rerank::rerank))
        .route("/reranking", post(rerank::rerank))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/api/version", get(ollama::version))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::processes))
        .route("/api/show", post(ollama::show))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embeddings))
        .route("/embeddings", post(native::embeddings))
        .route("/embedding", post(native::embeddings))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/health", get(native::health))
        .fallback(async |uri: Uri| ApiError::not_found(uri.path()))
        .method_not_allowed_fallback(async |uri: Uri| ApiError::method(uri.path()))
        .layer(middleware::from_fn_with_state(app.clone(), access::check))
        .layer(middleware::map_response(access::body_errors))
        .layer(middleware::from_fn(in_form_of_the_interface))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(CatchPanicLayer::custom(|_| ApiError::server("the request failed").into_response()))
        .layer(middleware::from_fn(log))
        .with_state(app);
    match options.origins.layer() {
        Some(layer) => router.layer(layer),
        None => router,
    }
}
