//! Reads one call, a JSON object, character by character.

use super::delta::Delta;
use super::tool::KnownTool;
use std::sync::Arc;

/// The state of a call that is being read.
pub struct CallReader {
    /// The name of the field with the arguments.
    arguments_field: &'static str,
    text: String,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Where the last string at depth 1 begins.
    string: usize,
    /// The key of the current value at depth 1, and where the value begins.
    key: Option<String>,
    value: Option<usize>,
    name: Option<String>,
    /// The text of the arguments.
    arguments: Option<String>,
    /// Number of bytes of the arguments that were sent.
    sent: usize,
    announced: bool,
    /// An object without marks is a call only if it has the name of one of these tools.
    tools: Option<Arc<[KnownTool]>>,
}

/// The end of an object.
pub enum End {
    /// It was a call.
    Call,
    /// It was another object, with this text.
    Other(String),
}

impl CallReader {
    /// A reader of an object with `arguments` in the field of this name.
    pub fn new(arguments_field: &'static str) -> Self {
        Self {
            arguments_field,
            text: String::new(),
            depth: 0,
            in_string: false,
            escaped: false,
            string: 0,
            key: None,
            value: None,
            name: None,
            arguments: None,
            sent: 0,
            announced: false,
            tools: None,
        }
    }

    /// The object has no marks. It is a call only if it has the name of one of the tools.
    pub fn with_tools(self, tools: Arc<[KnownTool]>) -> Self {
        Self { tools: Some(tools), ..self }
    }

    /// True if the object stands between marks.
    pub fn is_marked(&self) -> bool {
        self.tools.is_none()
    }

    /// True if the beginning of the call was announced.
    pub fn is_announced(&self) -> bool {
        self.announced
    }

    /// The number of objects and lists that are open.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads a character. Returns the end of the object if the character completes it.
    pub fn push(&mut self, c: char, index: usize, deltas: &mut Vec<Delta>) -> Option<End> {
        let at = self.text.len();
        self.text.push(c);
        let mut ended = false;
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.depth == 1 && self.key.is_none() {
                        self.key = serde_json::from_str(&self.text[self.string..]).ok();
                    }
                }
                _ => {}
            }
        } else {
            if self.depth == 1 && self.key.is_some() && self.value.is_none() && c != ':' && !c.is_whitespace()
            {
                self.value = Some(at);
            }
            match c {
                '"' => {
                    self.in_string = true;
                    self.string = at;
                }
                ',' if self.depth == 1 => self.end_value(at),
                '{' | '[' => self.depth += 1,
                '}' | ']' => {
                    if self.depth == 1 {
                        self.end_value(at);
                    }
                    self.depth = self.depth.saturating_sub(1);
                    ended = self.depth == 0;
                }
                _ => {}
            }
        }
        self.send(index, deltas);
        if !ended {
            return None;
        }
        if self.name.is_none() {
            return Some(End::Other(std::mem::take(&mut self.text)));
        }
        if self.sent == 0 {
            let arguments = self.arguments.take().unwrap_or_else(|| "{}".to_owned());
            deltas.push(Delta::Arguments(arguments));
        }
        Some(End::Call)
    }

    fn end_value(&mut self, at: usize) {
        let (Some(key), Some(begin)) = (self.key.take(), self.value.take()) else { return };
        let value = self.text[begin..at].trim_end();
        if key == "name" {
            let known = |name: &String| {
                self.tools.as_ref().is_none_or(|tools| tools.iter().any(|tool| tool.name == *name))
            };
            self.name = self.name.take().or_else(|| serde_json::from_str(value).ok().filter(known));
        } else if is_arguments(&key, self.arguments_field) {
            // Some models write the arguments as a text.
            self.arguments = Some(serde_json::from_str(value).unwrap_or_else(|_| value.to_owned()));
        }
    }

    /// Announces the call, and sends its arguments as far as they are known.
    fn send(&mut self, index: usize, deltas: &mut Vec<Delta>) {
        let Some(name) = &self.name else { return };
        if !self.announced {
            self.announced = true;
            deltas.push(Delta::Call { index, name: name.clone() });
        }
        let complete = self.arguments.as_deref();
        let growing = || {
            let begin = self
                .value
                .filter(|_| self.key.as_deref().is_some_and(|key| is_arguments(key, self.arguments_field)))?;
            // A text is sent when it is complete, and spaces when more follows.
            self.text[begin..].starts_with('{').then(|| self.text[begin..].trim_end())
        };
        if let Some(arguments) = complete.or_else(growing)
            && arguments.len() > self.sent
        {
            let more = arguments[self.sent..].to_owned();
            self.sent = arguments.len();
            match deltas.last_mut() {
                Some(Delta::Arguments(text)) => text.push_str(&more),
                _ => deltas.push(Delta::Arguments(more)),
            }
        }
    }
}

/// True for the names of a field with arguments. A model without marks may use the name of another family.
fn is_arguments(key: &str, field: &str) -> bool {
    key == field || key == "arguments" || key == "parameters"
}
