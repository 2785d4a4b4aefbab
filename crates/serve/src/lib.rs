//! Serves language models to many clients at the same time.
//!
//! [`Engine`] runs requests in continuous batches, [`Service`] is a loaded model with its engine, [`Models`] are the models
//! of a server, [`Server`] speaks HTTP.
//!
//! ```no_run
//! use kvant::Model;
//! use kvant::kernels::{Backend, Isa};
//! use kvant_serve::{Keys, Models, NamedModel, Server, ServerOptions, ServiceSettings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("demo".as_ref())?;
//! let server = Server::bind("127.0.0.1", 8080, Keys::default(), ServerOptions::default())?;
//! let models = vec![NamedModel { name: "demo".to_owned(), model }];
//! let backend = Backend::new(Isa::best(), 2);
//! let limit = 4 << 30;
//! let models = Models::new(models, backend, ServiceSettings::default(), Box::new(|sampling| sampling), limit)?;
//! server.run::<Box<dyn std::error::Error>>(models, |_| Ok(()), || false)?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod anthropic;
mod constraint;
mod encoder;
mod engine;
mod gone;
mod http;
mod models;
mod native;
mod ollama;
mod openai;
mod page;
mod parse;
mod random;
mod rerank;
mod server;
mod service;
mod speech;
mod turn;

pub use constraint::{Constraint, Grammar, GrammarError, Grammars};
pub use encoder::EncoderService;
pub use engine::{Answer, Engine, Event, Failure, Metrics, Refusal, Request, Settings, Token};
pub use http::{Keys, Origins};
pub use models::{Loaded, Models, ModelsError, NamedModel, SamplingChange};
pub use parse::parse_request;
pub use server::{Server, ServerOptions};
pub use service::{CHATML, Service, ServiceSettings, Surroundings};
