//! Requests of `/v1/responses`.

use crate::constraint::Grammar;
use crate::http::{ApiError, Fields};
use crate::openai::messages::{arguments_as_object, text_of_parts};
use crate::service::Service;
use crate::turn::{Common, Inputs, Parameters, Tools, Turn};
use kvant::model::{Ending, Message};
use serde_json::{Map, Value, json};

/// Largest number of items.
const MOST_ITEMS: usize = 4096;
/// Fields that would change the answer.
const REFUSED: &[&str] = &["previous_response_id", "conversation", "prompt", "background"];
/// Fields that the response repeats.
const REPEATED: &[&str] = &[
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
];

/// A parsed request.
pub struct Parsed {
    pub turn: Turn,
    pub stream: bool,
    /// Each event with text has the times so far.
    pub timings_per_token: bool,
    /// Fields of the request that the response repeats.
    pub repeated: Map<String, Value>,
    /// The names of the fields that were ignored.
    pub ignored: Vec<String>,
}

/// Parses a request.
///
/// # Errors
/// Fields of another form; fields that would change the answer; errors of [`Turn::new`].
pub fn parse(service: &Service, mut fields: Fields, common: &Common) -> Result<Parsed, ApiError> {
    fields.refuse(REFUSED)?;
    let include = fields.take("include").unwrap_or_default();
    let top = fields.integer(&["top_logprobs"], 0)?.unwrap_or(0);
    if top > 0
        || include.as_array().is_some_and(|parts| parts.contains(&"message.output_text.logprobs".into()))
    {
        let message = "log probabilities are given by /v1/chat/completions";
        return Err(ApiError::not_supported("top_logprobs", message));
    }
    let repeated = fields.copy(REPEATED);
    let limit = fields.integer(&["max_output_tokens"], 1)?;
    let parameters = Parameters::read(&mut fields, service)?;
    let limit = limit.map(|limit| limit as usize).or(parameters.limit);
    let parameters = Parameters { limit, ..parameters };
    let mut ignored = Vec::new();
    let tools = tools(&mut fields, &mut ignored)?;
    let constraint = format(&mut fields, service, &mut ignored)?;
    let mut variables = fields.object("chat_template_kwargs")?.unwrap_or_default();
    if let Some(effort) = fields.object("reasoning")?.and_then(|reasoning| reasoning.get("effort").cloned())
        && !effort.is_null()
    {
        variables.insert("reasoning_effort".to_owned(), effort);
    }
    let mut messages = Vec::new();
    if let Some(instructions) = fields.text("instructions")? {
        messages.push(Message::new("system", instructions));
    }
    match fields.take("input") {
        // A conversation can begin without a message, but many templates need one.
        None => messages.push(Message::new("user", "")),
        Some(Value::String(text)) => messages.push(Message::new("user", text)),
        Some(Value::Array(items)) if items.len() <= MOST_ITEMS => {
            for (index, item) in items.into_iter().enumerate() {
                read_item(&format!("input[{index}]"), item, &mut messages)?;
            }
        }
        _ => {
            let expected = format!("expected a text or up to {MOST_ITEMS} items");
            return Err(ApiError::parameter("input", expected));
        }
    }
    if messages.is_empty() {
        return Err(ApiError::parameter("input", "expected a text or items"));
    }
    let inputs = Inputs { messages, tools, ending: Ending::Prompt, variables, constraint };
    let turn = Turn::new(service, common, &parameters, inputs)?;
    ignored.extend(fields.ignored());
    let Parameters { stream, timings_per_token, .. } = parameters;
    Ok(Parsed { turn, stream, timings_per_token, repeated, ignored })
}

/// Reads tools. Those that OpenAI's servers would run are ignored.
fn tools(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Tools, ApiError> {
    let mut described = Vec::new();
    for (index, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => described.push(json!({ "type": "function", "function": tool })),
            kind => ignored.push(format!("tools[{index}] ({})", kind.unwrap_or("no type"))),
        }
    }
    for function in described.iter_mut().filter_map(|tool| tool["function"].as_object_mut()) {
        function.shift_remove("type");
    }
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let choice = fields.take("tool_choice");
    // A choice of a tool that is ignored has no effect.
    let choice = choice.filter(|choice| !(described.is_empty() && choice.as_str() != Some("none")));
    Tools::of(described, choice, parallel)
}

/// Reads the form of the answer.
fn format(
    fields: &mut Fields,
    service: &Service,
    ignored: &mut Vec<String>,
) -> Result<Option<crate::constraint::Constraint>, ApiError> {
    let mut text = fields.object("text")?.unwrap_or_default();
    let format = text.shift_remove("format").unwrap_or_default();
    ignored.extend(text.keys().map(|name| format!("text.{name}")));
    let grammar = match format.get("type").and_then(Value::as_str) {
        None | Some("text") => return Ok(None),
        Some("json_object") => Grammar::JsonObject,
        Some("json_schema") => match format.get("schema") {
            Some(schema) => Grammar::JsonSchema(schema.clone()),
            None => return Err(ApiError::parameter("text.format", "needs a `schema`")),
        },
        Some(kind) => {
            return Err(ApiError::parameter("text.format", format!("`{kind}` is not a known type")));
        }
    };
    service.constraint(&grammar).map(Some).map_err(|error| ApiError::parameter("text.format", error))
}

/// Reads an item. Calls and reasoning belong to a message of the assistant.
fn read_item(name: &str, item: Value, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let field = |field: &str| item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    match item.get("type").and_then(Value::as_str) {
        None | Some("message") => {
            let role = match field("role").as_str() {
                "developer" => "system".to_owned(),
                "" => return Err(ApiError::parameter(name, "expected a `role`")),
                role => role.to_owned(),
            };
            let text = content(name, item.get("content"))?;
            match messages.last_mut() {
                // Reasoning stands before its message.
                Some(last) if role == "assistant" && is_open(last) && last.content().is_empty() => {
                    last.fields.insert("content".to_owned(), text.into());
                }
                _ => messages.push(Message::new(&role, text)),
            }
        }
        Some("function_call") => {
            let mut call = json!({
                "id": field("call_id"),
                "type": "function",
                "function": { "name": field("name"), "arguments": field("arguments") },
            });
            arguments_as_object(&mut call);
            let last = assistant(messages);
            match last.fields.get_mut("tool_calls") {
                Some(Value::Array(calls)) => calls.push(call),
                _ => drop(last.fields.insert("tool_calls".to_owned(), json!([call]))),
            }
        }
        Some("function_call_output") => {
            let text = content(name, item.get("output"))?;
            messages.push(Message::new("tool", text).with("tool_call_id", field("call_id")));
        }
        Some("reasoning") => {
            let texts = ["content", "summary"].iter().find_map(|part| {
                let texts = item.get(*part)?.as_array()?.iter();
                let texts: Vec<&str> = texts.filter_map(|part| part.get("text")?.as_str()).collect();
                (!texts.is_empty()).then(|| texts.join("\n"))
            });
            if let Some(text) = texts {
                messages.push(Message::new("assistant", "").with("reasoning_content", text));
            }
        }
        Some(kind) => return Err(ApiError::not_supported(name, format!("items of the type `{kind}`"))),
    }
    Ok(())
}

/// The text of a message or of the result of a tool.
fn content(name: &str, content: Option<&Value>) -> Result<String, ApiError> {
    match content {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => text_of_parts(name, parts.clone()),
        None | Some(Value::Null) => Ok(String::new()),
        Some(_) => Err(ApiError::parameter(name, "expected a text or a list of parts")),
    }
}

/// True if calls can be added to a message.
fn is_open(message: &Message) -> bool {
    message.role == "assistant"
}

/// The last message, if it is the assistant's; otherwise a new one.
fn assistant(messages: &mut Vec<Message>) -> &mut Message {
    if !messages.last().is_some_and(is_open) {
        messages.push(Message::new("assistant", ""));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}
