//! Parses requests without an answer, for tests and for fuzzing.

use crate::anthropic::parse_messages;
use crate::http::Fields;
use crate::ollama::{Kind, parse_ollama};
use crate::openai::{parse_chat, parse_completion, parse_response};
use crate::service::Service;
use crate::turn::Common;

/// Parses the body of a request as its path does, and returns the number of tokens of its prompts.
///
/// # Errors
/// The message of the error that the path would return.
pub fn parse_request(service: &Service, path: &str, body: &[u8]) -> Result<usize, String> {
    let common = Common::default();
    let mut fields = Fields::parse(body).map_err(|error| error.message().to_owned())?;
    fields.take("model");
    let parsed = match path {
        "/v1/chat/completions" => {
            parse_chat(service, fields, &common).map(|(turn, ..)| turn.request.prompt.len())
        }
        "/v1/completions" => parse_completion(service, fields, &common),
        "/v1/responses" => {
            parse_response(service, fields, &common).map(|parsed| parsed.turn.request.prompt.len())
        }
        "/v1/messages" => {
            parse_messages(service, fields, &common, false).map(|parsed| parsed.turn.request.prompt.len())
        }
        "/api/chat" | "/api/generate" => {
            let kind = if path == "/api/chat" { Kind::Chat } else { Kind::Generate };
            let parsed = parse_ollama(service, fields, &common, kind);
            parsed.map(|parsed| parsed.turn.map_or(0, |turn| turn.request.prompt.len()))
        }
        _ => return Err(format!("{path}: no path with a parser")),
    };
    parsed.map_err(|error| error.message().to_owned())
}
