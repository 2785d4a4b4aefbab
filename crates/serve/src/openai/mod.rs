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

pub use answer::{FINGERPRINT, log_probability_entry, progress, timings};
pub use chat::{completions as chat_completions, input_tokens, parse as parse_chat, rendering};
pub use completions::{completions, parse_completion};
pub use embeddings::embeddings;
pub use format::constraint;
pub use messages::messages;
pub use models::{model, models};
pub use responses::{input_tokens as response_input_tokens, parse_response, responses};
