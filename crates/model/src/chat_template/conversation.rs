//! The inputs of a template (messages, tools, documents and other variables), and the rendered conversation.

use super::TemplateError;
use serde_json::{Map, Value as Json, json};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` …
    pub role: String,
    /// All other fields of the message, with their names in `transformers`: `content` (a text or a list of parts),
    /// `reasoning_content`, `tool_calls`, `tool_call_id`, `name` …
    pub fields: Map<String, Json>,
}

/// Names of the fields that can hold the reasoning text of a message. The first field that is present is used.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Message {
    /// Creates a message whose content is a text.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), fields: Map::new() }.with("content", content.into())
    }

    /// Sets the field `name` to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Reads a message in the JSON format of OpenAI and `transformers`. Returns `None` if the message has no role.
    pub fn from_json(json: &Json) -> Option<Self> {
        let mut fields = json.as_object()?.clone();
        let role = fields.shift_remove("role")?.as_str()?.to_owned();
        Some(Self { role, fields })
    }

    /// Returns the content if it is a text; otherwise an empty text.
    pub fn content(&self) -> &str {
        self.fields.get("content").and_then(Json::as_str).unwrap_or_default()
    }

    /// Returns the fields of the message for templates: without null fields, and with the reasoning text in both
    /// `thinking` and `reasoning_content`.
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

/// The end of a rendering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The rendering ends with the generation prompt, which is the beginning of the model's answer.
    #[default]
    Prompt,
    /// The rendering ends after the last message.
    Whole,
    /// The rendering ends inside the last message, so that the model continues this message.
    Continue,
}

/// All inputs of a template.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    messages: &'a [Message],
    tools: Option<&'a [Json]>,
    documents: Option<&'a [Json]>,
    variables: Map<String, Json>,
    ending: Ending,
}

impl<'a> Conversation<'a> {
    /// Creates a conversation that has only messages. Its rendering ends with the generation prompt.
    pub fn new(messages: &'a [Message]) -> Self {
        Self { messages, tools: None, documents: None, variables: Map::new(), ending: Ending::Prompt }
    }

    /// Sets the tools, each one as a JSON Schema.
    #[must_use]
    pub fn tools(self, tools: &'a [Json]) -> Self {
        Self { tools: Some(tools), ..self }
    }

    /// Sets the documents, each one with a `title` and a `text`.
    #[must_use]
    pub fn documents(self, documents: &'a [Json]) -> Self {
        Self { documents: Some(documents), ..self }
    }

    /// Sets another variable of the template, for example `enable_thinking`.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the end of the rendering.
    #[must_use]
    pub fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    /// Returns the variables of the template. For [`Ending::Continue`], appends `mark` to the text of the last message;
    /// returns an error if the last message has no text.
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

    /// Returns the text of the last message, if the model continues this message.
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
    /// For each run of characters with the same origin: the byte offset of its end, and true if a user wrote the run.
    runs: Vec<(usize, bool)>,
}

impl Rendering {
    pub(super) fn new(text: String, runs: Vec<(usize, bool)>) -> Self {
        Self { text, runs }
    }

    /// Returns the text of the rendering.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the text of the rendering without a copy.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Splits the text into pieces of one origin. The flag is true if the template wrote the piece. Control tokens are
    /// parsed only in pieces that the template wrote.
    pub fn spans(&self) -> Vec<(&str, bool)> {
        let mut from = 0;
        let piece = |&(end, user): &(usize, bool)| {
            let piece = &self.text[from..end];
            from = end;
            (piece, !user)
        };
        self.runs.iter().map(piece).collect()
    }

    /// Cuts the rendering before `mark`, which follows the text of the last message, as `transformers` does. `message`
    /// is this text. Returns an error if the template changed `message` or `mark`.
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
