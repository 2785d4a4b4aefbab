//! The form of an answer: `response_format`, and the fields of llama.cpp and vLLM with the same purpose.

use crate::constraint::{Constraint, Grammar};
use crate::http::{ApiError, Fields};
use crate::service::Service;
use serde_json::{Map, Value};

/// Reads the form of the answer. `None` is any text.
///
/// # Errors
/// More than one form; a grammar with an error.
pub fn constraint(fields: &mut Fields, service: &Service) -> Result<Option<Constraint>, ApiError> {
    let mut found = Vec::new();
    if let Some(format) = fields.object("response_format")? {
        found.extend(response_format(format)?.map(|grammar| ("response_format", grammar)));
    }
    for name in ["json_schema", "guided_json"] {
        if let Some(schema) = fields.take(name) {
            found.push((name, Grammar::JsonSchema(object_or_text(name, schema)?)));
        }
    }
    for name in ["grammar", "guided_grammar"] {
        if let Some(text) = fields.text(name)? {
            found.push((name, grammar(text)));
        }
    }
    for name in ["regex", "guided_regex"] {
        if let Some(text) = fields.text(name)? {
            found.push((name, Grammar::Regex(text)));
        }
    }
    if let Some(choices) = fields.list("guided_choice")? {
        found.push(("guided_choice", choice(choices)));
    }
    if let Some(mut outputs) = fields.object("structured_outputs")? {
        let name = "structured_outputs";
        for (key, value) in std::mem::take(&mut outputs) {
            let grammar = match (key.as_str(), value) {
                (_, Value::Null) => continue,
                ("json", schema) => Grammar::JsonSchema(object_or_text(name, schema)?),
                ("json_object", Value::Bool(true)) => Grammar::JsonObject,
                ("regex", Value::String(text)) => Grammar::Regex(text),
                ("grammar", Value::String(text)) => grammar(text),
                ("choice", Value::Array(choices)) => choice(choices),
                _ => return Err(ApiError::not_supported(name, format!("this server does not have `{key}`"))),
            };
            found.push((name, grammar));
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [(name, grammar)] => {
            service.constraint(grammar).map(Some).map_err(|error| ApiError::parameter(name, error))
        }
        [(first, _), (second, _), ..] => {
            Err(ApiError::parameter(second, format!("the form of the answer is also in `{first}`")))
        }
    }
}

/// Reads OpenAI's three shapes, and llama.cpp's `schema` beside the type.
fn response_format(mut format: Map<String, Value>) -> Result<Option<Grammar>, ApiError> {
    let name = "response_format";
    let kind = format.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let schema = format.shift_remove("schema");
    match (kind.as_str(), schema) {
        ("text", _) => Ok(None),
        ("json_object", None) => Ok(Some(Grammar::JsonObject)),
        ("json_object", Some(schema)) => Ok(Some(Grammar::JsonSchema(schema))),
        ("json_schema", schema) => {
            let nested = format.get("json_schema").and_then(|named| named.get("schema"));
            let schema = nested.cloned().or(schema);
            let missing = || ApiError::parameter(name, "`json_schema` needs a `schema`");
            schema.map(|schema| Some(Grammar::JsonSchema(schema))).ok_or_else(missing)
        }
        (kind, _) => {
            let expected = "expected the type `text`, `json_object` or `json_schema`";
            Err(ApiError::parameter(name, format!("{expected}, not `{kind}`")))
        }
    }
}

/// A grammar of llama.cpp, or one of `llguidance` with its mark in the first line.
fn grammar(text: String) -> Grammar {
    if text.trim_start().starts_with("%llguidance") { Grammar::Lark(text) } else { Grammar::Gbnf(text) }
}

/// One of several values. Texts stand without quotation marks.
fn choice(choices: Vec<Value>) -> Grammar {
    let one = |choice: &Value| match choice {
        Value::String(text) => literal(text),
        other => literal(&other.to_string()),
    };
    Grammar::Regex(choices.iter().map(one).collect::<Vec<_>>().join("|"))
}

/// A regular expression that matches exactly `text`.
fn literal(text: &str) -> String {
    let escape = |c: char| {
        if c.is_ascii_alphanumeric() || !c.is_ascii() {
            c.to_string()
        } else {
            format!("\\x{{{:x}}}", c as u32)
        }
    };
    text.chars().map(escape).collect()
}

/// A schema, or its text.
fn object_or_text(name: &str, schema: Value) -> Result<Value, ApiError> {
    match schema {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| ApiError::parameter(name, error)),
        schema => Ok(schema),
    }
}
