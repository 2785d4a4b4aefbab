//! The job `chat`: a conversation with the model's own chat template.
//!
//! Each turn is rendered whole; what the sequence already holds of it is kept.

use crate::Error;
use kvant_model::{
    ChatTemplate, Message, Sampler, Sampling, Sequence, TemplateError, Tokenizer, Transformer, generate,
};
use std::sync::Arc;

/// A conversation.
///
/// ```
/// use kvant::kernels::{Backend, Isa};
/// use kvant::model::{ChatTemplate, Sampling};
/// use kvant::{Chat, Event, Model, RunSettings};
///
/// # fn main() -> Result<(), kvant::Error> {
/// let model = Model::open("demo".as_ref())?;
/// let (network, tokenizer) = model.load_speaker(Backend::new(Isa::best(), 1), RunSettings::default())?;
/// // The demo model brings no chat template.
/// let template = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}", "", "")?;
/// let mut chat = Chat::new(&network, &tokenizer, template, Sampling::default(), 64)?;
/// chat.say("Once upon a time", 4, &mut |event| !matches!(event, Event::Refused(_)))?;
/// assert_eq!(chat.messages().len(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Chat<'a> {
    network: &'a Transformer,
    tokenizer: &'a Arc<Tokenizer>,
    template: ChatTemplate,
    sampler: Sampler,
    sequence: Sequence,
    /// Tokens that the sequence holds.
    held: Vec<u32>,
    messages: Vec<Message>,
    context: usize,
}

/// What happens during a turn.
pub enum Event<'a> {
    /// A piece of the answer has become final; empty ones come while a long prompt is read.
    Piece(&'a str),
    /// The context of so many tokens is full; the oldest turn was dropped.
    Dropped(usize),
    /// The message cannot be said; the conversation goes on without it.
    Refused(Refusal),
}

/// Why a message cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The template refuses it.
    #[error(transparent)]
    Template(TemplateError),
    /// The template makes no text of it.
    #[error("the chat template makes no text of this message")]
    NoText,
    /// It is longer than the context.
    #[error("{tokens} tokens don't fit the context of {context}; say it shorter")]
    Long {
        /// Its tokens.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
}

impl<'a> Chat<'a> {
    /// A conversation in which nobody has said anything, with so many tokens of context.
    ///
    /// # Errors
    /// A sampling setting outside its range.
    pub fn new(
        network: &'a Transformer,
        tokenizer: &'a Arc<Tokenizer>,
        template: ChatTemplate,
        sampling: Sampling,
        context: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            network,
            tokenizer,
            template,
            sampler: Sampler::new(sampling)?,
            sequence: network.sequence(context),
            held: Vec::new(),
            messages: Vec::new(),
            context,
        })
    }

    /// The same with a system message.
    #[must_use]
    pub fn with_system(mut self, text: &str) -> Self {
        self.messages.insert(0, Message::new("system", text));
        self
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Says something and lets the model answer in at most `tokens` tokens. `emit` ends the answer by returning false.
    ///
    /// # Errors
    /// Broken weights.
    pub fn say(
        &mut self,
        text: &str,
        tokens: usize,
        emit: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), Error> {
        self.messages.push(Message::new("user", text));
        let Some(ids) = self.rendered(tokens, emit) else { return Ok(()) };
        // The last token is always run again: its logits begin the answer.
        let shared = self.held.iter().zip(&ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        self.sequence.truncate(shared);
        // Where keys and values cannot go back so far and no further, some tokens are run once more.
        let news = &ids[self.sequence.len()..];
        let limit = tokens.min(self.context - ids.len() + 1);
        let mut piece = |text: &str| emit(Event::Piece(text));
        let (network, tokenizer) = (self.network, self.tokenizer);
        let (sequence, sampler) = (&mut self.sequence, &mut self.sampler);
        let answer = generate(network, tokenizer, sequence, sampler, news, limit, &[], &mut piece)?;
        self.held = ids;
        self.held.extend(&answer.tokens);
        self.held.truncate(self.sequence.len());
        self.messages.push(Message::new("assistant", answer.text));
        Ok(())
    }

    /// The conversation as tokens, without its oldest turns where it does not fit; `None`, and the last message forgotten,
    /// where it cannot be said.
    fn rendered(&mut self, tokens: usize, emit: &mut dyn FnMut(Event) -> bool) -> Option<Vec<u32>> {
        let room = tokens.min(self.context / 2).max(1);
        let first = usize::from(self.messages[0].role == "system");
        let mut ids = self.template.encode(self.tokenizer, &self.messages);
        while ids.as_ref().is_ok_and(|ids| ids.len() + room > self.context) && self.messages.len() > first + 1
        {
            // A turn is a question and its answer; they go together.
            let turn = if self.messages.len() > first + 2 { 2 } else { 1 };
            self.messages.drain(first..first + turn);
            emit(Event::Dropped(self.context));
            ids = self.template.encode(self.tokenizer, &self.messages);
        }
        let refusal = match ids {
            Ok(ids) if ids.is_empty() => Refusal::NoText,
            Ok(ids) if ids.len() > self.context => Refusal::Long { tokens: ids.len(), context: self.context },
            Ok(ids) => return Some(ids),
            Err(error) => Refusal::Template(error),
        };
        self.messages.pop();
        emit(Event::Refused(refusal));
        None
    }
}
