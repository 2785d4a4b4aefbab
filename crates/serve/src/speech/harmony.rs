//! Reads answers of gpt-oss: messages with a channel. The channel `analysis` is reasoning, `final` is text for the user, and
//! a message to `functions.NAME` is a call.
//!
//! Source: the description of the harmony response format by OpenAI.

use super::delta::Delta;
use super::marks::{beginning_of, first_of};

pub(super) const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// Marks that end a message.
const ENDS: &[&str] = &["<|end|>", "<|return|>", "<|call|>", "<|start|>"];
const FUNCTIONS: &str = "to=functions.";

/// Reads an answer.
pub struct HarmonyParser {
    state: State,
    rest: String,
    count: usize,
}

enum State {
    /// In the head of a message.
    Head,
    /// In a message.
    Message(Kind),
}

#[derive(Clone, Copy)]
enum Kind {
    Content,
    Reasoning,
    Arguments,
}

impl HarmonyParser {
    /// A parser for an answer to a prompt that ends with `prompt`.
    pub fn new(prompt: &str) -> Self {
        // The prompt ends with the head of a message, or in its text if the model continues it.
        let head = prompt.rfind(CHANNEL);
        let message = prompt
            .rfind(MESSAGE)
            .filter(|at| ENDS.iter().all(|end| prompt.rfind(end).is_none_or(|end| end < *at)));
        let state = match (message, head) {
            (Some(at), Some(head)) if head < at && prompt[head..at].contains("analysis") => {
                State::Message(Kind::Reasoning)
            }
            (Some(_), _) => State::Message(Kind::Content),
            (None, _) => State::Head,
        };
        Self { state, rest: String::new(), count: 0 }
    }

    /// Reads a piece.
    pub fn push(&mut self, piece: &str) -> Vec<Delta> {
        self.rest.push_str(piece);
        let mut deltas = Vec::new();
        while self.step(&mut deltas) {}
        deltas
    }

    /// Returns what was held back.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if let State::Message(kind) = self.state {
            let rest = std::mem::take(&mut self.rest);
            send(kind, rest, &mut deltas);
        }
        deltas
    }

    fn step(&mut self, deltas: &mut Vec<Delta>) -> bool {
        match self.state {
            State::Head => {
                let Some(at) = self.rest.find(MESSAGE) else { return false };
                let head: String = self.rest.drain(..at + MESSAGE.len()).collect();
                let kind = if let Some(to) = head.find(FUNCTIONS) {
                    let name = &head[to + FUNCTIONS.len()..];
                    let end = name.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(name.len());
                    deltas.push(Delta::Call { index: self.count, name: name[..end].to_owned() });
                    self.count += 1;
                    Kind::Arguments
                } else if head.contains("analysis") {
                    Kind::Reasoning
                } else {
                    Kind::Content
                };
                self.state = State::Message(kind);
                true
            }
            State::Message(kind) => {
                if let Some((at, mark)) = first_of(&self.rest, ENDS) {
                    let text: String = self.rest.drain(..at + mark.len()).collect();
                    send(kind, text[..at].to_owned(), deltas);
                    self.state = State::Head;
                    return true;
                }
                let end = self.rest.len() - beginning_of(&self.rest, ENDS);
                let text: String = self.rest.drain(..end).collect();
                send(kind, text, deltas);
                false
            }
        }
    }
}

fn send(kind: Kind, text: String, deltas: &mut Vec<Delta>) {
    if !text.is_empty() {
        deltas.push(match kind {
            Kind::Content => Delta::Content(text),
            Kind::Reasoning => Delta::Reasoning(text),
            Kind::Arguments => Delta::Arguments(text),
        });
    }
}
