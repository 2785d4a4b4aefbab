//! Tokenizes calibration text: the user's texts and the built-in text.

use crate::opened::read_text;
use crate::{Error, noise};
use kvant_model::{ChatTemplate, LocalTime, Message, Special, TemplateError, Tokenizer, Weights};
use kvant_quant::Calibration;
use std::path::{Path, PathBuf};

/// Number of tokens of a context. If the model's context is shorter, the model's context is used.
pub const CALIBRATION_CONTEXT: usize = 512;

/// Number of tokens of a context for a model that gives vectors of texts.
const TEXT_CONTEXT: usize = 128;

/// The built-in plain texts (`assets/calibration`).
const BUILTIN: &[&str] = &[
    include_str!("../../../assets/calibration/encyclopaedia.txt"),
    include_str!("../../../assets/calibration/prose.txt"),
    include_str!("../../../assets/calibration/code.txt"),
    include_str!("../../../assets/calibration/mathematics.txt"),
    include_str!("../../../assets/calibration/korean.txt"),
    include_str!("../../../assets/calibration/languages.txt"),
];

/// The built-in conversations: each line is a JSON array of messages.
const CHAT: &str = include_str!("../../../assets/calibration/chat.jsonl");

/// The date that chat templates print, in seconds since 1970: 1 January 2025, noon, UTC.
const CLOCK: i64 = 1_735_732_800;

/// A calibration text.
#[derive(Clone, Debug)]
pub enum CalibrationText {
    /// The built-in text: encyclopaedia, prose, code, mathematics, Korean, other languages, conversations.
    BuiltIn,
    /// A file.
    File(PathBuf),
    /// A text in memory.
    Text {
        /// The text's name, for the card.
        name: String,
        /// The text.
        text: String,
    },
}

impl CalibrationText {
    /// Returns the built-in text for the word `builtin`, otherwise the file at `path`.
    pub fn at(path: &Path) -> Self {
        if path == Path::new("builtin") { Self::BuiltIn } else { Self::File(path.to_owned()) }
    }

    /// Returns the path, if the text is a file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::BuiltIn => "builtin".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Text { name, .. } => name.clone(),
        }
    }
}

/// Returns the default maximum number of tokens to use from these texts. It is larger for the built-in text, because
/// the built-in text consists of many kinds of text.
pub fn calibration_tokens(texts: &[CalibrationText]) -> usize {
    let builtin = texts.iter().all(|text| matches!(text, CalibrationText::BuiltIn));
    CALIBRATION_CONTEXT * if builtin { 96 } else { 64 }
}

/// Calibration contexts, and notes for the user.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The contexts.
    pub calibration: Calibration,
    /// Notes for the user on how the contexts were made.
    pub notes: Vec<String>,
}

/// Tokenizes the texts and cuts them into contexts. All contexts together have about `most_tokens` tokens at most; the
/// number is rounded up to whole contexts. If `noise` gives a seed, noise replaces a share of the contexts
/// (docs/quality.md).
///
/// # Errors
/// Errors of reading and of the tokenizer; texts shorter than a context; a token outside the network's vocabulary.
pub fn calibration(
    texts: &[CalibrationText],
    most_tokens: usize,
    noise: Option<u64>,
    weights: &Weights,
    tokenizer: &Tokenizer,
) -> Result<Calibrated, Error> {
    let encode = |text: &str, parse: bool| tokenizer.encode(text, Special { add: false, parse });
    let (mut all, mut notes) = (Vec::new(), Vec::new());
    for text in texts {
        match text {
            CalibrationText::Text { text, .. } => all.push(encode(text, false)?),
            CalibrationText::File(path) => all.push(encode(&read_text(path)?, false)?),
            CalibrationText::BuiltIn => {
                for text in BUILTIN {
                    all.push(encode(text, false)?);
                }
                // If the template cannot be used, calibration uses plain text and adds a note. The job `chat` would
                // fail.
                let template = ChatTemplate::of(tokenizer).unwrap_or_else(|error| {
                    notes.push(plain_text_note(&error));
                    None
                });
                // A template may print the date. A fixed clock keeps the output file independent of the current day.
                let template = template.map(|template| template.with_clock(|| LocalTime::at(CLOCK, 0, 0)));
                all.push(encode(&conversations(template.as_ref(), &mut notes), template.is_some())?);
            }
        }
    }
    let spec = weights.spec();
    // Texts for vectors are short, and each of them stands between the ids that begin and end a text.
    let vectors = spec.text_vector.is_some();
    let length = if vectors { TEXT_CONTEXT } else { CALIBRATION_CONTEXT }.min(spec.context);
    let (before, after) = tokenizer.around();
    let bos = match vectors {
        true => before.first().copied(),
        false => tokenizer.adds_bos().then(|| tokenizer.bos()).flatten(),
    };
    let names: Vec<String> = texts.iter().map(CalibrationText::name).collect();
    let mut calibration = Calibration::new(&all, length, most_tokens.div_ceil(length), bos, names.join(","))?;
    if let (true, Some(&end)) = (vectors, after.last()) {
        calibration = calibration.ending_in(end);
    }
    if let Some(seed) = noise {
        let places = calibration.noisy();
        calibration =
            calibration.with_noise(&noise::noise(tokenizer, spec.vocabulary, places, length, seed)?);
    }
    let is_unknown = |&&token: &&u32| token as usize >= spec.vocabulary;
    match calibration.contexts().iter().flatten().find(is_unknown) {
        Some(&token) => Err(kvant_model::Error::Token { token, vocabulary: spec.vocabulary }.into()),
        None => Ok(Calibrated { calibration, notes }),
    }
}

/// Returns the note for a template that cannot be used.
fn plain_text_note(error: &TemplateError) -> String {
    format!("{error}; the calibration's conversations are plain text")
}

/// Renders the built-in conversations with the model's template. A conversation becomes plain text if there is no
/// template or if the template refuses the conversation.
fn conversations(mut template: Option<&ChatTemplate>, notes: &mut Vec<String>) -> String {
    #[derive(serde::Deserialize)]
    struct Turn {
        role: String,
        content: String,
    }
    let mut text = String::new();
    for line in CHAT.lines() {
        let Ok(turns) = serde_json::from_str::<Vec<Turn>>(line) else { continue };
        let messages: Vec<Message> =
            turns.iter().map(|t| Message::new(&t.role, t.content.as_str())).collect();
        let rendered = template.and_then(|used| match used.render(&messages, false) {
            Ok(text) => Some(text),
            Err(error) => {
                if !matches!(error, TemplateError::Refused(_)) {
                    notes.push(plain_text_note(&error));
                    template = None;
                }
                None
            }
        });
        match rendered {
            Some(rendered) => text.push_str(&rendered),
            None => turns.iter().for_each(|t| text.push_str(&format!("{}: {}\n", t.role, t.content))),
        }
        text.push('\n');
    }
    text
}
