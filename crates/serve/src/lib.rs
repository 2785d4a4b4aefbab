//! Serves language models to many clients at the same time.
//!
//! [`Engine`] runs requests in continuous batches.

mod engine;

pub use engine::{Answer, Engine, Event, Failure, Metrics, Refusal, Request, Settings, Token};
