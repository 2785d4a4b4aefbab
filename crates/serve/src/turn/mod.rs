//! The next answer of a conversation: what every interface has in common.
//!
//! An interface reads its own fields into [`Inputs`]. [`Turn::new`] renders and encodes the conversation, and chooses the
//! grammar. The answer's parts come from [`Turn::parts`].

mod parameters;
mod prompts;
mod tools;

pub use parameters::{MOST_TOP, Parameters, stop_texts};
pub use prompts::{encoded, is_list_of_prompts, prompts};
pub use tools::Tools;

use crate::Request;
use crate::constraint::Constraint;
use crate::http::{ApiError, Client};
use crate::service::Service;
use crate::speech::{Delta, KnownTool, Speech, SpeechParser};
use axum::http::Extensions;
use kvant::model::{Conversation, Ending, Message, Sampling};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Instant;

/// The part of a request that does not stand in its body.
#[derive(Default)]
pub struct Common {
    client: Arc<str>,
}

impl Common {
    /// Reads the client.
    pub fn of(extensions: &Extensions) -> Self {
        Self { client: extensions.get::<Client>().map_or_else(|| "".into(), |client| client.0.clone()) }
    }

    /// A request to the engine.
    pub fn request(&self, service: &Service, prompt: Vec<u32>, parameters: &Parameters) -> Request {
        let limit = parameters.limit.unwrap_or(service.answer_tokens);
        Request {
            stop: parameters.stop.clone(),
            ignore_end: parameters.ignore_end,
            progress: parameters.progress,
            ..self.bare_request(service, prompt, limit, parameters.sampling.clone())
        }
    }

    /// A request to the engine without an interface's own parameters.
    pub fn bare_request(
        &self,
        service: &Service,
        prompt: Vec<u32>,
        limit: usize,
        sampling: Sampling,
    ) -> Request {
        Request {
            client: self.client.clone(),
            deadline: service.timeout.map(|timeout| Instant::now() + timeout),
            ..Request::new(prompt, limit, sampling)
        }
    }
}

/// The inputs of a turn.
pub struct Inputs {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The tools that the model may call.
    pub tools: Tools,
    /// The end of the rendering.
    pub ending: Ending,
    /// Other variables of the template.
    pub variables: Map<String, Value>,
    /// The form of the answer.
    pub constraint: Option<Constraint>,
}

/// The next answer of a conversation.
pub struct Turn {
    /// The request to the engine.
    pub request: Request,
    /// The parts of the answer.
    pub parts: Parts,
}

/// The parts that the answer can have.
#[derive(Clone)]
pub enum Parts {
    /// Text.
    Text,
    /// Text, reasoning and calls.
    All {
        /// The form in which the model writes them.
        speech: Speech,
        /// The end of the rendered prompt.
        prompt: String,
        /// The tools.
        tools: Arc<[KnownTool]>,
    },
}

/// The conversation as the chat template reads it: with the variables of the service and of the request, and with the tools,
/// which the system message describes if the template does not know tools.
pub fn conversation<'a>(
    service: &Service,
    messages: &'a mut Vec<Message>,
    tools: &'a Tools,
    ending: Ending,
    variables: Map<String, Value>,
) -> Conversation<'a> {
    let knows_tools = service.speech.knows_tools();
    if tools.are_there() && !knows_tools {
        tools.describe_in(messages);
    }
    let mut conversation = Conversation::new(messages).ending(ending);
    for (name, value) in service.template_variables.clone().into_iter().chain(variables) {
        conversation = conversation.variable(&name, value);
    }
    if tools.are_there() && knows_tools {
        conversation = conversation.tools(tools.described());
    }
    conversation
}

impl Turn {
    /// Renders and encodes a conversation.
    ///
    /// # Errors
    /// A conversation that the template refuses; a grammar with an error.
    pub fn new(
        service: &Service,
        common: &Common,
        parameters: &Parameters,
        inputs: Inputs,
    ) -> Result<Self, ApiError> {
        let Inputs { mut messages, tools, ending, variables, constraint } = inputs;
        let speech = service.speech;
        let conversation = conversation(service, &mut messages, &tools, ending, variables);
        let rendering = service.template.render_conversation(&conversation)?;
        let text = rendering.text();
        let constraint = match (constraint, tools.grammar(speech, service)) {
            (Some(_), Some(_)) => {
                let message = "an answer that must call a tool has no other form";
                return Err(ApiError::parameter("tool_choice", message));
            }
            (None, Some(grammar)) => {
                let constraint = service.constraint(&grammar);
                let constraint = constraint.map_err(|error| ApiError::parameter("tools", error))?;
                Some(match (speech, speech.reasoning_end(text)) {
                    (Speech::Marked(_), Some(mark)) => constraint.after(mark),
                    _ => constraint,
                })
            }
            (Some(constraint), None) => Some(match speech.reasoning_end(text) {
                Some(mark) => constraint.after(mark),
                None => constraint,
            }),
            (None, None) => None,
        };
        let parts = if tools.are_there() || speech.has_parts() {
            Parts::All { speech, prompt: last_part(text).to_owned(), tools: tools.known() }
        } else {
            Parts::Text
        };
        let prompt = service.encode_rendering(&rendering)?;
        if prompt.is_empty() {
            return Err(ApiError::parameter("messages", "the chat template makes no text of them"));
        }
        let request = Request {
            constraint,
            control_tokens: matches!(parts, Parts::All { .. }) && service.marks_are_control,
            boundaries: service.boundaries(&conversation, &prompt)?,
            ..common.request(service, prompt, parameters)
        };
        Ok(Self { request, parts })
    }
}

/// The end of a prompt, as far as it decides how an answer begins.
fn last_part(prompt: &str) -> &str {
    let mut from = prompt.len().saturating_sub(256);
    while !prompt.is_char_boundary(from) {
        from -= 1;
    }
    &prompt[from..]
}

/// Divides the text of one answer into its parts.
pub struct PartReader(Option<SpeechParser>);

impl Parts {
    /// A reader for one answer.
    pub fn reader(&self) -> PartReader {
        PartReader(match self {
            Self::Text => None,
            Self::All { speech, prompt, tools } => Some(speech.parser(prompt, tools)),
        })
    }
}

impl PartReader {
    /// Reads a piece. With `last`, returns what was held back, too.
    pub fn read(&mut self, text: String, last: bool) -> Vec<Delta> {
        let Some(parser) = &mut self.0 else {
            return if text.is_empty() { Vec::new() } else { vec![Delta::Content(text)] };
        };
        let mut deltas = parser.push(&text);
        if last {
            deltas.extend(parser.finish());
        }
        deltas
    }
}
