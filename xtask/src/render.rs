//! `cargo xtask render`: renders chat templates like `kvant chat`, for comparisons (`tools/templates.py`).
//!
//! Reads one JSON object per line: `template`, `tokens` (the special tokens by variable), `variables` (`messages`,
//! `tools`, `documents`, `add_generation_prompt` and any others), `continue_final`, `unix` (the time of the clock).
//! Writes one JSON object per line: `text` and `spans`, or `error`.

use kvant::model::{ChatTemplate, Conversation, Ending, LocalTime, Message, TemplateError};
use serde_json::{Value as Json, json};
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicI64, Ordering};

/// The time of the clock, in seconds since 1970-01-01 00:00 UTC.
static UNIX: AtomicI64 = AtomicI64::new(0);

/// Runs the command. Returns the faults as texts.
pub fn run() -> Vec<String> {
    let mut out = std::io::stdout().lock();
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let Ok(request) = line.map_err(|e| e.to_string()).and_then(|l| parsed(&l)) else {
            return vec![format!("line {}: no JSON", number + 1)];
        };
        let answer = match rendered(&request) {
            Ok(answer) => answer,
            Err(error) => json!({ "error": error }),
        };
        if writeln!(out, "{answer}").is_err() {
            return Vec::new();
        }
    }
    Vec::new()
}

fn parsed(line: &str) -> Result<Json, String> {
    serde_json::from_str(line).map_err(|e| e.to_string())
}

fn rendered(request: &Json) -> Result<Json, String> {
    let said = |error: TemplateError| error.to_string();
    UNIX.store(request["unix"].as_i64().unwrap_or(0), Ordering::Relaxed);
    let tokens = request["tokens"].as_object().into_iter().flatten();
    let tokens: Vec<(&str, &str)> =
        tokens.map(|(name, text)| (name.as_str(), text.as_str().unwrap_or_default())).collect();
    let template = ChatTemplate::with_tokens(request["template"].as_str().unwrap_or_default(), &tokens)
        .map_err(said)?
        .with_clock(|| LocalTime::at(UNIX.load(Ordering::Relaxed), 0, 0));
    let variables = &request["variables"];
    let messages: Option<Vec<Message>> =
        variables["messages"].as_array().into_iter().flatten().map(Message::from_json).collect();
    let messages = messages.ok_or("a message is no object with a role")?;
    let mut conversation = Conversation::new(&messages).ending(Ending::Whole);
    for (name, value) in variables.as_object().into_iter().flatten() {
        conversation = match (name.as_str(), value) {
            ("messages", _) => conversation,
            ("tools", Json::Array(tools)) => conversation.tools(tools),
            ("documents", Json::Array(documents)) => conversation.documents(documents),
            ("add_generation_prompt", Json::Bool(true)) => conversation.ending(Ending::Prompt),
            _ => conversation.variable(name, value.clone()),
        };
    }
    if request["continue_final"] == true {
        conversation = conversation.ending(Ending::Continue);
    }
    let rendering = template.render_conversation(&conversation).map_err(said)?;
    Ok(json!({ "text": rendering.text(), "spans": rendering.spans() }))
}
