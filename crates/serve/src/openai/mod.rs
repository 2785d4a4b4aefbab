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

pub use chat::{completions as chat_completions, parse as parse_chat, rendering};
pub use completions::{completions, parse_completion};
pub use embeddings::embeddings;
pub use messages::messages;
pub use models::{model, models};
pub use responses::{parse_response, responses};
