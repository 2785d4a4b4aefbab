//! Requests in Anthropic's form.

use crate::constraint::{Constraint, Grammar};
use crate::http::{ApiError, Fields};
use crate::service::Service;
use crate::turn::{Common, Inputs, Parameters, Tools, Turn, stop_texts};
use kvant::model::{Ending, Message};
use serde_json::{Map, Value, json};

/// Largest number of messages, and of blocks in a message.
const MOST: usize = 4096;

/// A parsed request.
pub struct Parsed {
    pub turn: Turn,
    pub stream: bool,
    /// The names of the fields that were ignored.
    pub ignored: Vec<String>,
}

/// Parses a request. A request that only counts tokens needs no `max_tokens`.
///
/// # Errors
/// Fields of another form; blocks that are not text; errors of [`Turn::new`].
pub fn parse(
    service: &Service,
    mut fields: Fields,
    common: &Common,
    counts: bool,
) -> Result<Parsed, ApiError> {
    let stop = stop_texts(&mut fields, "stop_sequences")?;
    let limit = fields.integer(&["max_tokens"], 1)?.map(|limit| limit as usize);
    let parameters = Parameters { stop, limit, ..Parameters::read(&mut fields, service)? };
    if parameters.limit.is_none() && !counts {
        return Err(ApiError::parameter("max_tokens", "is necessary"));
    }
    let mut ignored = Vec::new();
    let constraint = format(&mut fields, service, &mut ignored)?;
    let tools = tools(&mut fields, &mut ignored)?;
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        messages.push(Message::new("system", text("system", &system)?));
    }
    let given = fields.list("messages")?.unwrap_or_default();
    if given.is_empty() || given.len() > MOST {
        return Err(ApiError::parameter("messages", format!("expected 1 to {MOST} messages")));
    }
    for (index, message) in given.iter().enumerate() {
        read_message(&format!("messages[{index}]"), message, &mut messages)?;
    }
    if messages.iter().all(|message| message.role == "system") {
        return Err(ApiError::parameter("messages", "expected a message with text"));
    }
    // The model continues a last message of its own.
    let own = messages.last().is_some_and(|message| message.role == "assistant");
    let ending = if own { Ending::Continue } else { Ending::Prompt };
    let mut variables = Map::new();
    if let Some(thinking) = fields.object("thinking")? {
        let enabled = thinking.get("type").and_then(Value::as_str) != Some("disabled");
        variables.insert("enable_thinking".to_owned(), enabled.into());
    }
    let inputs = Inputs { messages, tools, ending, variables, constraint };
    let turn = Turn::new(service, common, &parameters, inputs)?;
    ignored.extend(fields.ignored());
    Ok(Parsed { turn, stream: parameters.stream, ignored })
}

/// Reads the form of the answer: `output_config.format`, or its older name `output_format`.
fn format(
    fields: &mut Fields,
    service: &Service,
    ignored: &mut Vec<String>,
) -> Result<Option<Constraint>, ApiError> {
    let mut config = fields.object("output_config")?.unwrap_or_default();
    let format = config.shift_remove("format");
    ignored.extend(config.keys().map(|name| format!("output_config.{name}")));
    let (name, format) = match (format, fields.take("output_format")) {
        (Some(format), _) if !format.is_null() => ("output_config", format),
        (_, Some(format)) => ("output_format", format),
        _ => return Ok(None),
    };
    let schema = match (format.get("type").and_then(Value::as_str), format.get("schema")) {
        (Some("json_schema"), Some(schema)) => schema.clone(),
        _ => return Err(ApiError::parameter(name, "expected the type `json_schema` and a `schema`")),
    };
    let constraint = service.constraint(&Grammar::JsonSchema(schema));
    constraint.map(Some).map_err(|error| ApiError::parameter(name, error))
}

/// Reads tools and the choice among them. Tools that a server would run are ignored.
fn tools(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Tools, ApiError> {
    let mut described = Vec::new();
    for (index, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("custom");
        if kind != "custom" {
            ignored.push(format!("tools[{index}] ({kind})"));
            continue;
        }
        let function = json!({
            "name": tool.get("name"), "description": tool.get("description"), "parameters": tool.get("input_schema"),
        });
        described.push(json!({ "type": "function", "function": function }));
    }
    let choice = fields.object("tool_choice")?.unwrap_or_default();
    let parallel = choice.get("disable_parallel_tool_use") != Some(&Value::Bool(true));
    let choice = match choice.get("type").and_then(Value::as_str) {
        None | Some("auto") => Value::Null,
        Some("tool") => json!({ "name": choice.get("name") }),
        Some(kind) => kind.into(),
    };
    Tools::of(described, Some(choice).filter(|choice| !choice.is_null()), parallel)
}

/// Reads a message. The results of tools become messages of their own.
fn read_message(name: &str, message: &Value, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let role = match message.get("role").and_then(Value::as_str) {
        Some(role @ ("user" | "assistant" | "system")) => role,
        _ => return Err(ApiError::parameter(name, "expected the `role` `user` or `assistant`")),
    };
    let blocks = match message.get("content") {
        Some(Value::Array(blocks)) if blocks.len() <= MOST => blocks,
        Some(content @ Value::String(_)) => {
            messages.push(Message::new(role, text(name, content)?));
            return Ok(());
        }
        _ => return Err(ApiError::parameter(name, "expected a text or blocks as `content`")),
    };
    let (mut texts, mut thinking, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.iter().enumerate() {
        let name = format!("{name}.content[{index}]");
        let field = |field: &str| block.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        match block.get("type").and_then(Value::as_str) {
            Some("text") => texts.push(field("text")),
            Some("thinking") => thinking.push(field("thinking")),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let function = json!({ "name": field("name"), "arguments": block.get("input") });
                calls.push(json!({ "id": field("id"), "type": "function", "function": function }));
            }
            Some("tool_result") => {
                let content = block.get("content").filter(|content| !content.is_null());
                let content = content.map_or_else(|| Ok(String::new()), |content| text(&name, content))?;
                messages.push(Message::new("tool", content).with("tool_call_id", field("tool_use_id")));
            }
            Some(kind) => {
                let message = format!("the model reads text, and no `{kind}`");
                return Err(ApiError::not_supported(&name, message));
            }
            None => return Err(ApiError::parameter(&name, "expected a block with a `type`")),
        }
    }
    if texts.is_empty() && calls.is_empty() && thinking.is_empty() {
        return Ok(());
    }
    let mut message = Message::new(role, texts.join("\n"));
    if !thinking.is_empty() {
        message = message.with("reasoning_content", thinking.join("\n"));
    }
    if !calls.is_empty() {
        message = message.with("tool_calls", calls);
    }
    messages.push(message);
    Ok(())
}

/// A text, or the texts of blocks.
fn text(name: &str, content: &Value) -> Result<String, ApiError> {
    let block = |block: &Value| match (block.get("type").and_then(Value::as_str), block.get("text")) {
        (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
        (Some(kind), _) if kind != "text" => {
            Err(ApiError::not_supported(name, format!("the model reads text, and no `{kind}`")))
        }
        _ => Err(ApiError::parameter(name, "expected blocks of text")),
    };
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => Ok(blocks.iter().map(block).collect::<Result<Vec<String>, _>>()?.join("\n")),
        _ => Err(ApiError::parameter(name, "expected a text or blocks of text")),
    }
}
