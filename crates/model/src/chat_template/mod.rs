//! A conversation as the model was trained to see it: the model's own Jinja template, rendered as `transformers`
//! renders it.
//!
//! Invariant: a user's text cannot become a control token. The template is rendered once with the messages and once
//! with a mark in place of each; only what the template itself wrote is searched for control tokens. Source:
//! `transformers`' `utils/chat_template_utils.py`. Left out: tools and documents.

use crate::{Special, Tokenizer, TokenizerError};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

/// Steps that a template may take: far above real ones, a bound for hostile ones.
const FUEL: u64 = 2_000_000;
/// Bytes that a template may have.
const LONGEST_TEMPLATE: usize = 1 << 20;

/// What is wrong with a template or its use.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It does not parse, or fails while rendering; the source names the line.
    #[error("chat template: {0}")]
    Jinja(String),
    /// It is longer than any sensible one.
    #[error("chat template: {found} bytes, at most {max} allowed")]
    TooLong {
        /// Its length.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// It changes the messages, so that a control token in one cannot be told from its own.
    #[error(
        "chat template: it rewrites message {index}, which contains the control token {token:?}; remove it"
    )]
    ControlToken {
        /// Which message.
        index: usize,
        /// The control token.
        token: String,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }

    fn value(&self) -> Value {
        context! { role => self.role.as_str(), content => self.content.as_str() }
    }
}

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Parses the template; `bos` and `eos` are the texts of those tokens, empty where there is none.
    ///
    /// # Errors
    /// [`TemplateError::Jinja`] with the line at fault.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > LONGEST_TEMPLATE {
            return Err(TemplateError::TooLong { found: source.len(), max: LONGEST_TEMPLATE });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(jinja)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime_now(&format));
        environment.add_template_owned("chat", source.to_owned()).map_err(jinja)?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The template of a tokenizer's model, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        let Some(source) = tokenizer.chat_template() else { return Ok(None) };
        let vocabulary = tokenizer.vocabulary();
        let text = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        Self::new(source, &text(vocabulary.bos), &text(vocabulary.eos)).map(Some)
    }

    /// The conversation as one text, with the beginning of an answer if asked for.
    ///
    /// # Errors
    /// [`TemplateError::Jinja`], also where the template itself refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let template = self.environment.get_template("chat").map_err(jinja)?;
        let values = context! {
            messages => messages.iter().map(Message::value).collect::<Vec<Value>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        template.render(values).map_err(jinja)
    }

    /// The conversation as tokens: control tokens only where the template wrote them.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateError::ControlToken`] where the two cannot be told apart.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        // The template writes BOS itself; where it does not, upstream adds none either.
        let add = false;
        let whole = self.render(messages, true)?;
        let marks: Vec<Message> =
            messages.iter().enumerate().map(|(i, m)| Message::new(&m.role, mark(i))).collect();
        let marked = self.render(&marks, true);
        if let Ok(marked) = marked
            && let Some(spans) = spans(&marked, messages)
            && spans.iter().map(|(text, _)| *text).collect::<String>() == whole
        {
            return Ok(tokenizer.encode_spans(&spans, add)?);
        }
        for (index, message) in messages.iter().enumerate() {
            let ids = tokenizer.encode(&message.content, Special { add: false, parse: true })?;
            if let Some(id) = ids.into_iter().find(|&id| tokenizer.is_control(id)) {
                return Err(TemplateError::ControlToken { index, token: tokenizer.piece(id) });
            }
        }
        Ok(tokenizer.encode(&whole, Special { add, parse: true })?)
    }
}

/// A text that no template writes: private-use characters around the message's number.
fn mark(index: usize) -> String {
    format!("\u{f5a0e}{index}\u{f5a0f}")
}

/// The template's own text (parsed) and the messages' contents (not parsed), in order; `None` if a mark is broken.
fn spans<'a>(marked: &'a str, messages: &'a [Message]) -> Option<Vec<(&'a str, bool)>> {
    let mut spans = Vec::new();
    let mut rest = marked;
    while let Some((before, after)) = rest.split_once('\u{f5a0e}') {
        let (index, after) = after.split_once('\u{f5a0f}')?;
        spans.push((before, true));
        spans.push((messages.get(index.parse::<usize>().ok()?)?.content.as_str(), false));
        rest = after;
    }
    spans.push((rest, true));
    Some(spans)
}

fn jinja(error: minijinja::Error) -> TemplateError {
    let line = error.line().map(|l| format!(" (line {l})")).unwrap_or_default();
    TemplateError::Jinja(format!("{error}{line}"))
}

/// The parts of `strftime` that templates use, in UTC.
fn strftime_now(format: &str) -> String {
    let seconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let name = MONTHS[month as usize - 1];
    format
        .replace("%Y", &year.to_string())
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%B", name)
        .replace("%b", &name[..3])
        .replace("%H", &format!("{:02}", seconds / 3600 % 24))
        .replace("%M", &format!("{:02}", seconds / 60 % 60))
        .replace("%S", &format!("{:02}", seconds % 60))
}

/// Year, month and day of a day count since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_781), (2026, 11, 24));
    }
}
