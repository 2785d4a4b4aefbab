//! Messages, tools and documents: what a template sees.

use super::TemplateError;
use serde_json::{Map, Value as Json, json};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` …
    pub role: String,
    /// Everything else by its name in `transformers`: `content` (a text or a list of parts), `reasoning_content`,
    /// `tool_calls`, `tool_call_id`, `name` …
    pub fields: Map<String, Json>,
}

/// Names of a message's reasoning; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Message {
    /// A message with a text.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), fields: Map::new() }.with("content", content.into())
    }

    /// The same with another field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// A message as OpenAI's and `transformers`' JSON writes it; none without a role.
    pub fn from_json(json: &Json) -> Option<Self> {
        let mut fields = json.as_object()?.clone();
        let role = fields.shift_remove("role")?.as_str()?.to_owned();
        Some(Self { role, fields })
    }

    /// Its text; empty where the content is none.
    pub fn content(&self) -> &str {
        self.fields.get("content").and_then(Json::as_str).unwrap_or_default()
    }

    /// As templates see it: without fields that are null, with the reasoning under each of its names.
    fn to_json(&self) -> Map<String, Json> {
        let mut fields = Map::new();
        let reasoning = REASONING.iter().find_map(|name| self.fields.get(*name).filter(|v| !v.is_null()));
        if let Some(reasoning) = reasoning {
            fields.insert("thinking".into(), reasoning.clone());
        }
        fields.insert("role".into(), self.role.as_str().into());
        let given = self.fields.iter().filter(|(_, value)| !value.is_null());
        fields.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        if let Some(reasoning) = reasoning {
            fields.insert("reasoning_content".into(), reasoning.clone());
        }
        fields
    }
}

/// How a rendering ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// With the beginning of an answer.
    #[default]
    Prompt,
    /// As the last message ends.
    Whole,
    /// Inside the last message, for an answer that goes on.
    Continue,
}

/// All that a template may see.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    messages: &'a [Message],
    tools: Option<&'a [Json]>,
    documents: Option<&'a [Json]>,
    variables: Map<String, Json>,
    ending: Ending,
}

impl<'a> Conversation<'a> {
    /// Messages alone, with the beginning of an answer.
    pub fn new(messages: &'a [Message]) -> Self {
        Self { messages, tools: None, documents: None, variables: Map::new(), ending: Ending::Prompt }
    }

    /// With tools, as JSON Schema.
    #[must_use]
    pub fn tools(self, tools: &'a [Json]) -> Self {
        Self { tools: Some(tools), ..self }
    }

    /// With documents, each with a `title` and a `text`.
    #[must_use]
    pub fn documents(self, documents: &'a [Json]) -> Self {
        Self { documents: Some(documents), ..self }
    }

    /// With another variable: `enable_thinking` and the like.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// With another ending.
    #[must_use]
    pub fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    /// The variables of a template; `mark` ends an answer that goes on.
    pub(super) fn variables(&self, mark: &str) -> Result<Map<String, Json>, TemplateError> {
        let mut messages: Vec<Map<String, Json>> = self.messages.iter().map(Message::to_json).collect();
        if self.ending == Ending::Continue {
            let content = messages.last_mut().and_then(|m| m.get_mut("content"));
            let text = match content {
                Some(Json::String(text)) => Some(text),
                Some(Json::Array(parts)) => {
                    parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
                        Some(Json::String(text)) => Some(text),
                        _ => None,
                    })
                }
                _ => None,
            };
            let Some(text) = text else { return Err(TemplateError::Continue("it has no text")) };
            text.push_str(mark);
        }
        let mut variables = Map::new();
        variables.insert("messages".into(), json!(messages));
        variables.insert("tools".into(), self.tools.map_or(Json::Null, |tools| json!(tools)));
        variables.insert("documents".into(), self.documents.map_or(Json::Null, |documents| json!(documents)));
        variables.insert("add_generation_prompt".into(), (self.ending == Ending::Prompt).into());
        variables.extend(self.variables.clone());
        Ok(variables)
    }

    /// The text that is to be continued.
    pub(super) fn continued(&self) -> Option<&str> {
        let last = self.messages.last().filter(|_| self.ending == Ending::Continue)?;
        match last.fields.get("content")? {
            Json::String(text) => Some(text),
            Json::Array(parts) => parts.iter().rev().find_map(|part| part["text"].as_str()),
            _ => None,
        }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    text: String,
    /// The end of each run in bytes, and whether a user wrote it.
    runs: Vec<(usize, bool)>,
}

impl Rendering {
    pub(super) fn new(text: String, runs: Vec<(usize, bool)>) -> Self {
        Self { text, runs }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The text in pieces, each with whether the template wrote it: only there control tokens count.
    pub fn spans(&self) -> Vec<(&str, bool)> {
        let mut from = 0;
        let piece = |&(end, user): &(usize, bool)| {
            let piece = &self.text[from..end];
            from = end;
            (piece, !user)
        };
        self.runs.iter().map(piece).collect()
    }

    /// The rendering up to the end of the message that `mark` ends, as `transformers` cuts it.
    pub(super) fn cut(mut self, message: &str, mark: &str) -> Result<Self, TemplateError> {
        let gone = TemplateError::Continue("the template changes it");
        if !self.text.contains(message.trim()) {
            return Err(gone);
        }
        let Some(at) = self.text.rfind(mark.trim()) else { return Err(gone) };
        let end = if self.text[at..].starts_with(mark) { at } else { self.text[..at].trim_end().len() };
        self.text.truncate(end);
        let runs = self.runs.partition_point(|(run_end, _)| *run_end < end);
        self.runs.truncate(runs + 1);
        if let Some((last, _)) = self.runs.last_mut() {
            *last = end;
        }
        Ok(self)
    }
}
