//! The message of an answer, built from its parts.

use super::answer::reason;
use crate::random::identifier;
use crate::speech::{Delta, is_json};
use kvant::model::Finish;
use serde_json::{Value, json};

/// The message of an answer so far.
#[derive(Default)]
pub struct AssistantMessage {
    content: String,
    reasoning: String,
    calls: Vec<Call>,
}

struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl AssistantMessage {
    /// Adds a part, and returns it in the form of a stream.
    pub fn add(&mut self, delta: Delta) -> Value {
        match delta {
            Delta::Content(text) => {
                self.content.push_str(&text);
                json!({ "content": text })
            }
            Delta::Reasoning(text) => {
                self.reasoning.push_str(&text);
                json!({ "reasoning_content": text })
            }
            Delta::Call { index, name } => {
                let id = identifier("call_");
                let call = json!({
                    "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": "" },
                });
                self.calls.push(Call { id, name, arguments: String::new() });
                json!({ "tool_calls": [call] })
            }
            Delta::Arguments(text) => {
                let index = self.calls.len().saturating_sub(1);
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&text);
                }
                json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
            }
        }
    }

    /// True if the model calls a tool.
    fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// The reason of the answer's end in OpenAI's words. A call that was cut is none that a client can run.
    pub fn reason(&self, finish: Option<Finish>) -> &'static str {
        // gpt-oss leaves out the arguments of a function without parameters.
        let whole = |call: &Call| call.arguments.is_empty() || is_json(&call.arguments);
        if finish != Some(Finish::Length) && self.has_calls() && self.calls.iter().all(whole) {
            "tool_calls"
        } else {
            reason(finish)
        }
    }

    /// The whole message.
    pub fn to_json(&self) -> Value {
        let mut message = json!({ "role": "assistant", "content": self.content, "refusal": null });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.as_str().into();
        }
        if self.has_calls() {
            if self.content.is_empty() {
                message["content"] = Value::Null;
            }
            let call = |call: &Call| {
                let function = json!({ "name": call.name, "arguments": call.arguments });
                json!({ "id": call.id, "type": "function", "function": function })
            };
            message["tool_calls"] = self.calls.iter().map(call).collect();
        }
        message
    }
}
