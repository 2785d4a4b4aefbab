//! A request to the engine, and the events of its answer.

use crate::constraint::Constraint;
use kvant::model::{Finish, LogProbabilities, Sampling};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// A text to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Largest number of tokens of the answer. The end of the context also ends it. With 0, the prompt is only read.
    pub limit: usize,
    /// Settings for the choice of tokens.
    pub sampling: Sampling,
    /// The answer ends before the first of these texts.
    pub stop: Vec<String>,
    /// If true, the text contains the texts of control tokens.
    pub control_tokens: bool,
    /// If true, tokens that end an answer do not end it.
    pub ignore_end: bool,
    /// With each token of the answer, its log probability and those of this number of most probable tokens.
    pub log_probabilities: Option<usize>,
    /// The same for each token of the prompt but the first.
    pub prompt_log_probabilities: Option<usize>,
    /// The log probabilities of the answer: false: the network's own; true: those among which the token was chosen, after
    /// the sampling settings and the grammar.
    pub after_sampling: bool,
    /// If true, events tell how much of the prompt was read.
    pub progress: bool,
    /// Ids whose log probabilities after the prompt are wanted. For a `limit` of 0.
    pub choices: Vec<u32>,
    /// The form of the answer.
    pub constraint: Option<Constraint>,
    /// Numbers of tokens of the prompt after which another conversation can differ, for example the end of the last
    /// message. A network that cannot return to each length keeps its states there.
    pub boundaries: Vec<usize>,
    /// The client. Clients with the fewest running requests go first.
    pub client: Arc<str>,
    /// The latest time at which the answer ends.
    pub deadline: Option<Instant>,
}

impl Request {
    /// A request without stop texts, log probabilities and deadline.
    pub fn new(prompt: Vec<u32>, limit: usize, sampling: Sampling) -> Self {
        Self {
            prompt,
            limit,
            sampling,
            stop: Vec::new(),
            control_tokens: false,
            ignore_end: false,
            log_probabilities: None,
            after_sampling: false,
            prompt_log_probabilities: None,
            progress: false,
            choices: Vec::new(),
            constraint: None,
            boundaries: Vec::new(),
            client: "".into(),
            deadline: None,
        }
    }
}

/// A token of an answer or of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// The log probabilities, if the request wants them. The first token of a prompt has none.
    pub log_probabilities: Option<LogProbabilities>,
}

/// An event of an answer.
#[derive(Clone, Debug)]
pub enum Event {
    /// Tokens of the prompt with their log probabilities, in order. Only if the request wants them.
    Prompt(Vec<Token>),
    /// A part of the prompt was read. Only if the request wants this event. The first one comes before the first step.
    Progress {
        /// The number of tokens of the prompt that another request had already read.
        cached_tokens: usize,
        /// The number of tokens of the prompt that were read, the cached ones included.
        read: usize,
        /// The time since the admission.
        time: Duration,
    },
    /// The log probabilities of [`Request::choices`], in their order.
    Choices(Vec<f32>),
    /// The prompt was read.
    Started {
        /// The number of tokens of the prompt that another request had already read.
        cached_tokens: usize,
        /// The time from the submission to the admission.
        waited: Duration,
        /// The time from the admission to the first token.
        prefill: Duration,
    },
    /// The next token of the answer.
    Piece {
        /// The token.
        token: Token,
        /// Text that became final; can be empty.
        text: String,
    },
    /// The answer ended. This is the last event.
    Ended {
        /// Text that became final.
        text: String,
        /// The reason.
        finish: Finish,
        /// The stop text that ended the answer, if one did.
        stop: Option<String>,
        /// The token that ended the answer, if one did. It has no text.
        end: Option<Token>,
        /// The number of tokens of the answer. A token that ends an answer counts.
        tokens: usize,
        /// The time from the first token to the last.
        decode: Duration,
    },
    /// The answer failed. This is the last event.
    Failed(Failure),
}

/// The reason why an answer failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The deadline passed.
    #[error("the request took longer than its deadline")]
    Deadline,
    /// The grammar of the answer cannot go on: it refers to itself without an end, or exceeds a limit.
    #[error("the grammar of the answer: {0}")]
    Grammar(String),
    /// The network failed, for example because of broken weights.
    #[error("{0}")]
    Network(String),
}

/// The events of one answer, as a stream. If it is dropped, the engine ends the work within one step.
#[derive(Debug)]
pub struct Answer {
    pub(super) events: UnboundedReceiver<Event>,
}

impl Answer {
    /// Waits for the next event, and blocks the thread. `None` after the last event, or if the engine stopped.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}

impl tokio_stream::Stream for Answer {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}
