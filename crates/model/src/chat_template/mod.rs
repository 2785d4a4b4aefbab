//! Renders a conversation in the format that the model was trained on. The model's own Jinja template is rendered as
//! `transformers` renders it.
//!
//! Invariants: a user's text cannot become a control token, because every character of the rendering has a recorded
//! origin (template or user), and control tokens are parsed only in the template's characters. A template can neither
//! crash nor block the program: limits bound its parsing and its rendering (`jinja/limits.rs`), and both run on a
//! thread with a large enough stack. Source: `utils/chat_template_utils.py` of `transformers`.

mod clock;
mod conversation;
mod jinja;

pub use clock::LocalTime;
pub use conversation::{Conversation, Ending, Message, Rendering};

use crate::{Tokenizer, TokenizerError};
use jinja::Kind;
use serde_json::{Map, Value as Json};

/// Maximum number of characters of an error message.
const LONGEST_MESSAGE: usize = 2000;
/// The mark that is appended to a message that the model continues. The rendering is cut at this mark. `transformers`
/// uses the same mark.
const CONTINUED: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Error of a chat template or of its use.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template cannot be parsed, or it fails during rendering.
    #[error("chat template: {message}{place}")]
    Jinja {
        /// The error message.
        message: String,
        /// Line and column; empty if they are not known.
        place: String,
    },
    /// The template refuses the conversation with `raise_exception`.
    #[error("chat template: {0}")]
    Refused(String),
    /// The template exceeds a limit.
    #[error("chat template: refused, {message}{place}")]
    Limit {
        /// A description of the limit.
        message: String,
        /// Line and column; empty if they are not known.
        place: String,
    },
    /// The source of the template is too long.
    #[error("chat template: {found} bytes, at most {max} allowed")]
    TooLong {
        /// Length in bytes.
        found: usize,
        /// Maximum length in bytes.
        max: usize,
    },
    /// The model cannot continue the last message.
    #[error("chat template: the last message cannot be continued: {0}")]
    Continue(&'static str),
    /// The thread that parses and renders the template cannot start.
    #[error("chat template: no thread with {bytes} bytes of stack: {source}")]
    Thread {
        /// Stack size of the thread, in bytes.
        bytes: usize,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// An error of the tokenizer.
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
    /// Parses a template. `bos` and `eos` are the texts of the BOS and EOS tokens. A text is empty if the model does
    /// not have this token.
    ///
    /// # Errors
    /// [`TemplateError::Jinja`] with the place of the error; [`TemplateError::Limit`] and [`TemplateError::TooLong`] if
    /// the template exceeds a limit.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        Self::with_tokens(source, &[("bos_token", bos), ("eos_token", eos)])
    }

    /// Parses a template. `tokens` contains names of variables and texts of special tokens. If a text is empty, the
    /// variable is undefined, as in `transformers`.
    ///
    /// # Errors
    /// The errors of [`ChatTemplate::new`].
    pub fn with_tokens(source: &str, tokens: &[(&str, &str)]) -> Result<Self, TemplateError> {
        if source.len() > jinja::TEMPLATE_BYTES {
            return Err(TemplateError::TooLong { found: source.len(), max: jinja::TEMPLATE_BYTES });
        }
        let template = on_large_stack(|| jinja::parse(source))?.map_err(|error| described(source, error))?;
        let tokens = tokens.iter().filter(|(_, text)| !text.is_empty());
        let tokens = tokens.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Ok(Self { template, tokens, clock: || LocalTime::now(0) })
    }

    /// Parses the template of a tokenizer's model. Returns `None` if the model has no template.
    ///
    /// # Errors
    /// The errors of [`ChatTemplate::new`].
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        tokenizer.chat_template().map(|source| Self::with_source(source, tokenizer)).transpose()
    }

    /// Parses a template for the special tokens of `tokenizer`.
    ///
    /// # Errors
    /// The errors of [`ChatTemplate::new`].
    pub fn with_source(source: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        let vocabulary = tokenizer.vocabulary();
        let text = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        let tokens = [
            ("bos_token", text(vocabulary.bos)),
            ("eos_token", text(vocabulary.eos)),
            ("unk_token", text(vocabulary.unknown)),
            ("pad_token", text(vocabulary.padding)),
        ];
        let tokens: Vec<(&str, &str)> = tokens.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Self::with_tokens(source, &tokens)
    }

    /// Sets the clock for `strftime_now`. The default clock returns UTC.
    pub fn with_clock(self, clock: fn() -> LocalTime) -> Self {
        Self { clock, ..self }
    }

    /// Renders the conversation as text. If `add_generation_prompt` is true, the text ends with the beginning of an
    /// answer.
    ///
    /// # Errors
    /// The errors of [`ChatTemplate::render_conversation`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let ending = if add_generation_prompt { Ending::Prompt } else { Ending::Whole };
        Ok(self.render_conversation(&Conversation::new(messages).ending(ending))?.into_text())
    }

    /// Renders the conversation. The result records which characters come from messages, tools, documents and
    /// variables.
    ///
    /// # Errors
    /// [`TemplateError::Jinja`] and [`TemplateError::Limit`]; [`TemplateError::Refused`] if the template refuses the
    /// conversation; [`TemplateError::Continue`] if the model cannot continue the last message.
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

    /// Renders the conversation and converts it to tokens. Control tokens are parsed only in the template's characters.
    ///
    /// # Errors
    /// The errors of [`ChatTemplate::render_conversation`], and the errors of the tokenizer.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        self.encode_conversation(tokenizer, &Conversation::new(messages))
    }

    /// Does the same as [`ChatTemplate::encode`] for a conversation that can also have tools, documents and variables.
    ///
    /// # Errors
    /// The errors of [`ChatTemplate::encode`].
    pub fn encode_conversation(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation<'_>,
    ) -> Result<Vec<u32>, TemplateError> {
        let rendering = self.render_conversation(conversation)?;
        // The template writes BOS itself. If a template writes no BOS, upstream adds none.
        Ok(tokenizer.encode_spans(&rendering.spans(), false)?)
    }
}

/// Runs `work` on a new thread whose stack is large enough for deep recursion. So the stack size of the calling thread
/// does not matter.
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
    // Byte offsets of errors refer to the normalized source, which has only `\n` as line end.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let before = source.get(..at).unwrap_or(&source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    format!(" (line {line}, column {column})")
}

/// Shortens a message and escapes its control characters except line ends and tabs, because a template can write any
/// text into the message.
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
