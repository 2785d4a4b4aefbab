//! Messages of a conversation in OpenAI's form.

use crate::http::{ApiError, Fields};
use kvant::model::Message;
use serde_json::{Map, Value};

/// Largest number of messages.
const MOST_MESSAGES: usize = 4096;

/// Reads the field `messages`.
///
/// # Errors
/// Messages of another form; parts that are not text.
pub fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let messages = fields.list("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Err(ApiError::parameter("messages", "at least one message is necessary"));
    }
    if messages.len() > MOST_MESSAGES {
        return Err(ApiError::parameter("messages", format!("at most {MOST_MESSAGES} messages")));
    }
    messages.into_iter().enumerate().map(|(index, message)| self::message(index, message)).collect()
}

fn message(index: usize, message: Value) -> Result<Message, ApiError> {
    let name = format!("messages[{index}]");
    let Value::Object(mut fields) = message else {
        return Err(ApiError::parameter(&name, "expected an object"));
    };
    let role = match fields.shift_remove("role") {
        // The later name of the role `system`.
        Some(Value::String(role)) if role == "developer" => "system".to_owned(),
        Some(Value::String(role)) => role,
        _ => return Err(ApiError::parameter(&name, "expected a `role`")),
    };
    match fields.shift_remove("content") {
        Some(Value::String(text)) => drop(fields.insert("content".to_owned(), text.into())),
        Some(Value::Array(parts)) => {
            drop(fields.insert("content".to_owned(), text_of_parts(&name, parts)?.into()))
        }
        // The call of a tool has no text.
        None | Some(Value::Null) if fields.contains_key("tool_calls") => {}
        None | Some(Value::Null) if role == "assistant" => {
            drop(fields.insert("content".to_owned(), "".into()));
        }
        _ => {
            return Err(ApiError::parameter(
                &format!("{name}.content"),
                "expected a text or a list of parts",
            ));
        }
    }
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
        calls.iter_mut().for_each(arguments_as_object);
    }
    Ok(Message { role, fields })
}

/// Templates read the arguments of a call as an object. OpenAI's clients send its text.
pub fn arguments_as_object(call: &mut Value) {
    let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else {
        return;
    };
    if let Value::String(text) = arguments
        && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
    {
        *arguments = object;
    }
}

/// Joins parts of text with line ends, as llama.cpp does.
pub fn text_of_parts(name: &str, parts: Vec<Value>) -> Result<String, ApiError> {
    let part = |(index, part): (usize, Value)| {
        let name = format!("{name}.content[{index}]");
        let empty = Map::new();
        let fields = part.as_object().unwrap_or(&empty);
        match fields.get("type").and_then(Value::as_str) {
            Some("text" | "input_text" | "output_text") => match fields.get("text") {
                Some(Value::String(text)) => Ok(text.clone()),
                _ => Err(ApiError::parameter(&name, "expected a `text`")),
            },
            Some(kind) => {
                Err(ApiError::not_supported(&name, format!("the model reads text, and no `{kind}`")))
            }
            None => Err(ApiError::parameter(&name, "expected an object with a `type`")),
        }
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}
