//! HTTP: connections, keys, limits, bodies, errors, streams.

pub mod access;
mod app;
mod connections;
mod error;
mod fields;
mod keys;
mod sse;

pub use app::{App, Loaded};
pub use connections::serve;
pub use error::{ApiError, BODY_BYTES, respond};
pub use fields::Fields;
pub use keys::{Client, Keys};
pub use sse::{EventStream, Left};
