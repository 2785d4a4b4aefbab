//! The interfaces of OpenAI.

mod answer;
mod chat;
mod completions;
mod embeddings;
mod format;
mod message;
mod messages;
mod models;
mod responses;

pub use chat::{completions as chat_completions, rendering};
pub use completions::completions;
pub use embeddings::embeddings;
pub use messages::messages;
pub use models::{model, models};
pub use responses::responses;
