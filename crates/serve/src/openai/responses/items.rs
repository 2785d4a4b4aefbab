//! The items of a response, and the events that build them.

use crate::random::identifier;
use crate::speech::Delta;
use serde_json::{Value, json};

/// The items so far.
#[derive(Default)]
pub struct Items {
    items: Vec<Item>,
    /// True if the last item is not complete.
    open: bool,
}

enum Item {
    Message { id: String, text: String },
    Reasoning { id: String, text: String },
    Call { id: String, call: String, name: String, arguments: String },
}

impl Item {
    fn to_json(&self, status: &str) -> Value {
        match self {
            Self::Message { id, text } => {
                let content = if text.is_empty() { json!([]) } else { json!([text_part(text)]) };
                json!({
                    "type": "message", "id": id, "status": status, "role": "assistant", "content": content,
                })
            }
            Self::Reasoning { id, text } => {
                let content = if text.is_empty() { json!([]) } else { json!([reasoning_part(text)]) };
                json!({ "type": "reasoning", "id": id, "status": status, "summary": [], "content": content })
            }
            Self::Call { id, call, name, arguments } => json!({
                "type": "function_call", "id": id, "call_id": call, "status": status, "name": name,
                "arguments": arguments,
            }),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Message { id, .. } | Self::Reasoning { id, .. } | Self::Call { id, .. } => id,
        }
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn reasoning_part(text: &str) -> Value {
    json!({ "type": "reasoning_text", "text": text })
}

impl Items {
    /// All items at the end of the answer. `cut` is true if the answer was cut.
    pub fn to_json(&self, cut: bool) -> Value {
        let last = self.items.len().saturating_sub(1);
        let status = |index: usize| if cut && index == last { "incomplete" } else { "completed" };
        self.items.iter().enumerate().map(|(index, item)| item.to_json(status(index))).collect()
    }

    /// Adds a part, and returns the events of a stream.
    pub fn add(&mut self, delta: Delta) -> Vec<Value> {
        let fits = matches!(
            (&delta, self.items.last()),
            (Delta::Content(_), Some(Item::Message { .. }))
                | (Delta::Reasoning(_), Some(Item::Reasoning { .. }))
                | (Delta::Arguments(_), _)
        );
        let mut events = if fits { Vec::new() } else { self.close(false) };
        if !fits {
            self.begin(&delta, &mut events);
        }
        let Some(index) = self.items.len().checked_sub(1) else { return events };
        let id = self.items[index].id().to_owned();
        let (kind, more) = match (delta, &mut self.items[index]) {
            (Delta::Content(more), Item::Message { text, .. }) => {
                text.push_str(&more);
                ("response.output_text.delta", more)
            }
            (Delta::Reasoning(more), Item::Reasoning { text, .. }) => {
                text.push_str(&more);
                ("response.reasoning_text.delta", more)
            }
            (Delta::Arguments(more), Item::Call { arguments, .. }) => {
                arguments.push_str(&more);
                ("response.function_call_arguments.delta", more)
            }
            _ => return events,
        };
        let mut event = json!({ "type": kind, "item_id": id, "output_index": index, "delta": more });
        if kind != "response.function_call_arguments.delta" {
            event["content_index"] = 0.into();
        }
        if kind == "response.output_text.delta" {
            event["logprobs"] = json!([]);
        }
        events.push(event);
        events
    }

    /// Begins an item.
    fn begin(&mut self, delta: &Delta, events: &mut Vec<Value>) {
        let (item, part) = match delta {
            Delta::Content(_) => {
                (Item::Message { id: identifier("msg_"), text: String::new() }, Some(text_part("")))
            }
            Delta::Reasoning(_) => {
                (Item::Reasoning { id: identifier("rs_"), text: String::new() }, Some(reasoning_part("")))
            }
            Delta::Call { name, .. } => {
                let (id, call) = (identifier("fc_"), identifier("call_"));
                (Item::Call { id, call, name: name.clone(), arguments: String::new() }, None)
            }
            Delta::Arguments(_) => return,
        };
        let index = self.items.len();
        events.push(json!({
            "type": "response.output_item.added", "output_index": index, "item": item.to_json("in_progress"),
        }));
        if let Some(part) = part {
            events.push(json!({
                "type": "response.content_part.added", "item_id": item.id(), "output_index": index,
                "content_index": 0, "part": part,
            }));
        }
        self.items.push(item);
        self.open = true;
    }

    /// Closes the last item. `cut` is true if the answer was cut in it.
    pub fn close(&mut self, cut: bool) -> Vec<Value> {
        if !std::mem::take(&mut self.open) {
            return Vec::new();
        }
        let index = self.items.len() - 1;
        let item = &self.items[index];
        let done = |kind: &str, name: &str, text: &str| json!({ "type": kind, "item_id": item.id(), "output_index": index, (name): text });
        let part = |part: Value| {
            json!({
                "type": "response.content_part.done", "item_id": item.id(), "output_index": index,
                "content_index": 0, "part": part,
            })
        };
        let mut events = match item {
            Item::Message { text, .. } => {
                let mut event = done("response.output_text.done", "text", text);
                event["content_index"] = 0.into();
                event["logprobs"] = json!([]);
                vec![event, part(text_part(text))]
            }
            Item::Reasoning { text, .. } => {
                let mut event = done("response.reasoning_text.done", "text", text);
                event["content_index"] = 0.into();
                vec![event, part(reasoning_part(text))]
            }
            Item::Call { .. } if cut => Vec::new(),
            Item::Call { name, arguments, .. } => {
                let mut event = done("response.function_call_arguments.done", "arguments", arguments);
                event["name"] = name.as_str().into();
                vec![event]
            }
        };
        let status = if cut { "incomplete" } else { "completed" };
        events.push(json!({
            "type": "response.output_item.done", "output_index": index, "item": item.to_json(status),
        }));
        events
    }
}
