//! Reads one call whose arguments stand between tags, as Qwen3-Coder and Qwen3.5 write it:
//!
//! ```text
//! <function=NAME>
//! <parameter=KEY>
//! VALUE
//! </parameter>
//! </function>
//! ```
//!
//! A value is a text if the tool says so, or JSON.

use super::delta::Delta;
use super::tool::KnownTool;
use serde_json::Value;
use std::sync::Arc;

/// The beginning of a call.
pub(super) const FUNCTION: &str = "<function=";
const END_OF_FUNCTION: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const END_OF_PARAMETER: &str = "</parameter>";

/// The state of a call that is being read.
pub struct TaggedCall {
    tools: Arc<[KnownTool]>,
    /// The name, after it was read.
    name: Option<String>,
    /// The parameter whose value is being read.
    key: Option<String>,
    /// The number of parameters.
    count: usize,
}

impl TaggedCall {
    /// A reader for the text after [`FUNCTION`].
    pub fn new(tools: Arc<[KnownTool]>) -> Self {
        Self { tools, name: None, key: None, count: 0 }
    }

    /// True if the beginning of the call was announced.
    pub fn is_announced(&self) -> bool {
        self.name.is_some()
    }

    /// Reads from `rest`, and removes what was read. Returns true at the end of the call, false if more text is needed.
    pub fn read(&mut self, rest: &mut String, index: usize, deltas: &mut Vec<Delta>) -> bool {
        loop {
            let Some(name) = &self.name else {
                let Some(end) = rest.find('>') else { return false };
                let name = rest.drain(..=end).collect::<String>();
                let name = name.trim_end_matches('>').trim().to_owned();
                deltas.push(Delta::Call { index, name: name.clone() });
                deltas.push(Delta::Arguments("{".to_owned()));
                self.name = Some(name);
                continue;
            };
            if let Some(key) = &self.key {
                let Some(end) = end_of_value(rest) else { return false };
                let text: String = rest.drain(..end + END_OF_PARAMETER.len()).collect();
                let value = self.value(name, key, &text[..end]);
                let comma = if self.count > 0 { ", " } else { "" };
                deltas.push(Delta::Arguments(format!("{comma}{}: {value}", Value::from(key.as_str()))));
                self.count += 1;
                self.key = None;
                continue;
            }
            let next = rest.trim_start();
            if let Some(after) = next.strip_prefix(PARAMETER) {
                let Some(end) = after.find('>') else { return false };
                self.key = Some(after[..end].trim().to_owned());
                *rest = after[end + 1..].to_owned();
            } else if let Some(after) = next.strip_prefix(END_OF_FUNCTION) {
                *rest = after.to_owned();
                deltas.push(Delta::Arguments("}".to_owned()));
                return true;
            } else if PARAMETER.starts_with(next) || END_OF_FUNCTION.starts_with(next) {
                return false;
            } else {
                // Something between the parameters. It has no place in the arguments.
                let skipped = next.chars().next().map_or(0, char::len_utf8);
                *rest = next[skipped..].to_owned();
            }
        }
    }

    /// The JSON of a value.
    fn value(&self, name: &str, key: &str, text: &str) -> Value {
        let text = text.strip_prefix('\n').unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        let tool = self.tools.iter().find(|tool| tool.name == name);
        if tool.is_some_and(|tool| tool.texts.iter().any(|text| text == key)) {
            return text.into();
        }
        // Python's words, too.
        match text.trim() {
            "True" => true.into(),
            "False" => false.into(),
            "None" => Value::Null,
            other => serde_json::from_str(other).unwrap_or_else(|_| text.into()),
        }
    }
}

/// The place of the tag that ends a value: the first after which another parameter or the end of the call follows, because a
/// value can contain the tag. `None` if more text is needed.
fn end_of_value(text: &str) -> Option<usize> {
    let follows = |at: &usize| {
        let next = text[at + END_OF_PARAMETER.len()..].trim_start();
        next.starts_with(PARAMETER) || next.starts_with(END_OF_FUNCTION)
    };
    text.match_indices(END_OF_PARAMETER).map(|(at, _)| at).find(follows)
}
