//! HTTP: connections, keys, limits, bodies, errors, streams.

pub mod access;
mod app;
mod arrival;
mod body;
mod connections;
mod cors;
mod error;
mod fields;
mod keys;
mod log;
mod sse;

pub use app::App;
pub use connections::serve;
pub use cors::Origins;
pub use error::{ApiError, BODY_BYTES, respond};
pub use fields::Fields;
pub use keys::{Client, Keys};
pub use log::log;
pub use sse::{EventStream, Left};
