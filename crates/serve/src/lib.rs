//! Serves language models to many clients at the same time.
//!
//! [`Engine`] runs requests in continuous batches, [`Service`] is a loaded model with its engine, [`Server`] speaks HTTP.
//!
//! ```no_run
//! use kvant::Model;
//! use kvant::kernels::{Backend, Isa};
//! use kvant_serve::{Keys, Loaded, Server, Service, ServiceSettings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("demo".as_ref())?;
//! let server = Server::bind("127.0.0.1", 8080, Keys::default())?;
//! let settings = ServiceSettings::default();
//! let load = || {
//!     let service = Service::load(&model, Backend::new(Isa::best(), 2), &settings, |sampling| sampling)?;
//!     Ok(Loaded::Speaker(service.into()))
//! };
//! server.run::<Box<dyn std::error::Error>>(load, |_| Ok(()), || false)?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod anthropic;
mod constraint;
mod encoder;
mod engine;
mod http;
mod native;
mod ollama;
mod openai;
mod page;
mod parse;
mod server;
mod service;
mod speech;
mod turn;

pub use constraint::{Constraint, Grammar, GrammarError, Grammars};
pub use encoder::EncoderService;
pub use engine::{Answer, Engine, Event, Failure, Metrics, Refusal, Request, Settings, Token};
pub use http::{Keys, Loaded};
pub use parse::parse_request;
pub use server::Server;
pub use service::{Service, ServiceSettings};
