//! A conversation as the model was trained to see it: the model's own Jinja template, rendered as `transformers`
//! renders it.
//!
//! Invariants: a user's text cannot become a control token, because every character of the rendering knows whether
//! the template or a user wrote it, and control tokens are parsed only in what the template wrote. A template can
//! neither kill nor hang the program: its parsing and rendering are bounded (`jinja/limits.rs`) and run on a thread
//! with a stack that fits. Source: `transformers`' `utils/chat_template_utils.py`.

mod clock;
mod conversation;
mod jinja;

pub use clock::LocalTime;
pub use conversation::{Conversation, Ending, Message, Rendering};

use crate::{Tokenizer, TokenizerError};
use jinja::Kind;
use serde_json::{Map, Value as Json};

/// Characters of an error message.
const LONGEST_MESSAGE: usize = 2000;
/// Appended to an answer that is to be continued, and cut off again: `transformers`' own mark.
const CONTINUED: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// What is wrong with a template or its use.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It does not parse, or fails while rendering.
    #[error("chat template: {message}{place}")]
    Jinja {
        /// In words.
        message: String,
        /// Line and column, where they are known.
        place: String,
    },
    /// It refuses the conversation by `raise_exception`.
    #[error("chat template: {0}")]
    Refused(String),
    /// It exceeds a bound.
    #[error("chat template: refused, {message}{place}")]
    Limit {
        /// The bound, in words.
        message: String,
        /// Line and column, where they are known.
        place: String,
    },
    /// It is longer than any sensible one.
    #[error("chat template: {found} bytes, at most {max} allowed")]
    TooLong {
        /// Its length.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// An answer cannot be continued.
    #[error("chat template: the last message cannot be continued: {0}")]
    Continue(&'static str),
    /// No thread for its work.
    #[error("chat template: no thread with {bytes} bytes of stack: {source}")]
    Thread {
        /// The stack.
        bytes: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A model's chat template.
pub struct ChatTemplate {
    template: jinja::Template,
    tokens: Vec<(String, String)>,
    clock: fn() -> LocalTime,
}

impl ChatTemplate {
    /// Parses the template; `bos` and `eos` are the texts of those tokens, empty where there is none.
    ///
    /// # Errors
    /// [`TemplateError::Jinja`] with the place at fault; [`TemplateError::Limit`] and [`TemplateError::TooLong`].
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        Self::with_tokens(source, &[("bos_token", bos), ("eos_token", eos)])
    }

    /// Parses the template; `tokens` are variables with the texts of special tokens. An empty text is none: the
    /// variable is undefined, as in `transformers`.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_tokens(source: &str, tokens: &[(&str, &str)]) -> Result<Self, TemplateError> {
        if source.len() > jinja::TEMPLATE_BYTES {
            return Err(TemplateError::TooLong { found: source.len(), max: jinja::TEMPLATE_BYTES });
        }
        let template = on_large_stack(|| jinja::parse(source))?.map_err(|error| described(source, error))?;
        let tokens = tokens.iter().filter(|(_, text)| !text.is_empty());
        let tokens = tokens.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Ok(Self { template, tokens, clock: || LocalTime::now(0) })
    }

    /// The template of a tokenizer's model, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        let Some(source) = tokenizer.chat_template() else { return Ok(None) };
        let vocabulary = tokenizer.vocabulary();
        let text = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        let tokens = [
            ("bos_token", text(vocabulary.bos)),
            ("eos_token", text(vocabulary.eos)),
            ("unk_token", text(vocabulary.unknown)),
            ("pad_token", text(vocabulary.padding)),
        ];
        let tokens: Vec<(&str, &str)> = tokens.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Self::with_tokens(source, &tokens).map(Some)
    }

    /// Another clock for `strftime_now`, which else gives UTC.
    pub fn with_clock(self, clock: fn() -> LocalTime) -> Self {
        Self { clock, ..self }
    }

    /// The conversation as one text, with the beginning of an answer if asked for.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_conversation`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let ending = if add_generation_prompt { Ending::Prompt } else { Ending::Whole };
        Ok(self.render_conversation(&Conversation::new(messages).ending(ending))?.into_text())
    }

    /// The conversation as one text that knows which characters come from messages, tools and documents.
    ///
    /// # Errors
    /// [`TemplateError::Jinja`] and [`TemplateError::Limit`]; [`TemplateError::Refused`] where the template itself
    /// refuses the conversation; [`TemplateError::Continue`].
    pub fn render_conversation(&self, conversation: &Conversation<'_>) -> Result<Rendering, TemplateError> {
        let variables = conversation.variables(CONTINUED)?;
        let (text, runs) = on_large_stack(|| self.render_variables(&variables))??;
        let rendering = Rendering::new(text, runs);
        match conversation.continued() {
            Some(message) => rendering.cut(message, CONTINUED),
            None => Ok(rendering),
        }
    }

    fn render_variables(&self, variables: &Map<String, Json>) -> Result<jinja::Rendered, TemplateError> {
        let clock = self.clock;
        jinja::render(&self.template, variables, &self.tokens, &clock)
            .map_err(|error| described(&self.template.source, error))
    }

    /// The conversation as tokens: control tokens only where the template wrote them.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_conversation`], and the tokenizer's.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        self.encode_conversation(tokenizer, &Conversation::new(messages))
    }

    /// As [`ChatTemplate::encode`], with all that a template may see.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode`].
    pub fn encode_conversation(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation<'_>,
    ) -> Result<Vec<u32>, TemplateError> {
        let rendering = self.render_conversation(conversation)?;
        // The template writes BOS itself; where it does not, upstream adds none either.
        Ok(tokenizer.encode_spans(&rendering.spans(), false)?)
    }
}

/// Runs `work` where deep recursion has room, whatever the stack of the calling thread.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TemplateError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(jinja::STACK_BYTES);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|source| TemplateError::Thread { bytes: jinja::STACK_BYTES, source })?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

fn described(source: &str, error: jinja::Error) -> TemplateError {
    let message = printable(&error.message);
    let place = error.at.map(|at| place(source, at as usize)).unwrap_or_default();
    match error.kind {
        Kind::Raised => TemplateError::Refused(message),
        Kind::Limit => TemplateError::Limit { message, place },
        Kind::Syntax | Kind::Runtime => TemplateError::Jinja { message, place },
    }
}

fn place(source: &str, at: usize) -> String {
    // Places count in the source with `\n` as its only line end.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let before = source.get(..at).unwrap_or(&source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    format!(" (line {line}, column {column})")
}

/// A message of bounded length without control characters other than line ends and tabs: a template wrote it.
fn printable(message: &str) -> String {
    let mut out = String::new();
    for (i, c) in message.chars().enumerate() {
        if i == LONGEST_MESSAGE {
            out.push('…');
            break;
        }
        let hidden = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n' && c != '\t') || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
