//! The job `chat`: a conversation with the model's chat template.
//!
//! Each turn renders the whole conversation. Tokens that are already in the KV cache are not computed again.

use crate::Error;
use kvant_model::{
    ChatTemplate, Conversation, Ending, Message, Sampler, Sampling, Sequence, TemplateError, Tokenizer,
    Transformer, generate, read_prompt,
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
/// // The demo model has no chat template.
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
    /// The tokens in the sequence's KV cache.
    cached: Vec<u32>,
    messages: Vec<Message>,
    context: usize,
}

/// An event of a turn.
pub enum Event<'a> {
    /// A piece of the answer is final. Empty pieces arrive during the prefill of a long prompt.
    Piece(&'a str),
    /// The context is full and the oldest turn was dropped. The value is the size of the context in tokens.
    Dropped(usize),
    /// The message was refused. The conversation continues without it.
    Refused(Refusal),
}

/// The reason why a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The template refuses the message.
    #[error(transparent)]
    Template(TemplateError),
    /// The template renders an empty text.
    #[error("the chat template makes no text of this message")]
    NoText,
    /// The message is longer than the context.
    #[error("{tokens} tokens don't fit the context of {context}; say it shorter")]
    Long {
        /// Tokens of the message, with the template.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
}

impl<'a> Chat<'a> {
    /// Starts an empty conversation with a context of `context` tokens.
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
            sampler: Sampler::with_tokenizer(sampling, tokenizer)?,
            sequence: network.sequence(context),
            cached: Vec::new(),
            messages: Vec::new(),
            context,
        })
    }

    /// Adds a system message.
    #[must_use]
    pub fn with_system(mut self, text: &str) -> Self {
        self.messages.insert(0, Message::new("system", text));
        self
    }

    /// Returns all messages of the conversation.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds a user message and generates an answer of at most `tokens` tokens. `emit` receives all events. If `emit`
    /// returns false, the answer ends.
    ///
    /// # Errors
    /// Logits that are not finite, because of broken weights.
    pub fn say(
        &mut self,
        text: &str,
        tokens: usize,
        emit: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), Error> {
        self.messages.push(Message::new("user", text));
        let Some(ids) = self.render(tokens, emit) else { return Ok(()) };
        // The last token is always computed again, because its logits give the first token of the answer.
        let shared = self.cached.iter().zip(&ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        self.sequence.truncate(shared);
        // `truncate` may remove more tokens from the KV cache than requested. `generate` computes the removed shared
        // tokens again.
        let limit = tokens.min(self.context - ids.len() + 1);
        let mut piece = |text: &str| emit(Event::Piece(text));
        let (network, tokenizer) = (self.network, self.tokenizer);
        if self.sequence.needs_checkpoints() {
            // The next turn repeats the tokens up to here. The beginning of an answer can differ, for example if the
            // template removes the reasoning of earlier answers.
            let end = self.repeated(&ids).min(ids.len() - 1);
            let tokens = ids.get(self.sequence.len()..end).unwrap_or(&[]);
            if read_prompt(network, &mut self.sequence, tokens, &mut piece)? {
                self.sequence.checkpoint();
            }
        }
        let (sequence, sampler) = (&mut self.sequence, &mut self.sampler);
        let answer = generate(network, tokenizer, sequence, sampler, &ids, limit, &[], &mut piece)?;
        self.cached = ids;
        self.cached.extend(&answer.tokens);
        self.cached.truncate(self.sequence.len());
        self.messages.push(Message::new("assistant", answer.text));
        Ok(())
    }

    /// Returns the number of tokens of `ids`, the rendered conversation, that do not belong to the beginning of an answer.
    fn repeated(&self, ids: &[u32]) -> usize {
        let whole = Conversation::new(&self.messages).ending(Ending::Whole);
        let without_answer = self.template.encode_conversation(self.tokenizer, &whole).unwrap_or_default();
        without_answer.iter().zip(ids).take_while(|(a, b)| a == b).count()
    }

    /// Renders the conversation as tokens. Drops the oldest turns if the conversation and an answer do not fit in the
    /// context. If the last message is refused, removes the message and returns `None`.
    fn render(&mut self, tokens: usize, emit: &mut dyn FnMut(Event) -> bool) -> Option<Vec<u32>> {
        let room = tokens.min(self.context / 2).max(1);
        let first = usize::from(self.messages[0].role == "system");
        let mut ids = self.template.encode(self.tokenizer, &self.messages);
        while ids.as_ref().is_ok_and(|ids| ids.len() + room > self.context) && self.messages.len() > first + 1
        {
            // A turn is a question and its answer. Question and answer are dropped together.
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
