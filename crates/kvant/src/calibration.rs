//! Calibration text as tokens: a user's texts, and the text that kvant carries.

use crate::opened::read_text;
use crate::{Error, noise};
use kvant_model::{ChatTemplate, LocalTime, Message, Special, TemplateError, Tokenizer, Weights};
use kvant_quant::Calibration;
use std::path::{Path, PathBuf};

/// Tokens a context, where the model reads that many.
pub const CALIBRATION_CONTEXT: usize = 512;

/// Own text of many kinds (`assets/calibration`).
const BUILTIN: &[&str] = &[
    include_str!("../../../assets/calibration/encyclopaedia.txt"),
    include_str!("../../../assets/calibration/prose.txt"),
    include_str!("../../../assets/calibration/code.txt"),
    include_str!("../../../assets/calibration/mathematics.txt"),
    include_str!("../../../assets/calibration/korean.txt"),
    include_str!("../../../assets/calibration/languages.txt"),
];

/// Own conversations: one JSON array of messages a line.
const CHAT: &str = include_str!("../../../assets/calibration/chat.jsonl");

/// The time at which the conversations take place, in seconds since 1970: noon on 1 January 2025.
const CLOCK: i64 = 1_735_732_800;

/// A text to calibrate on.
#[derive(Clone, Debug)]
pub enum CalibrationText {
    /// Text of many kinds that kvant carries: encyclopaedia, prose, code, mathematics, Korean, other languages, conversations.
    BuiltIn,
    /// A file.
    File(PathBuf),
    /// A text in memory.
    Text {
        /// Its name, for the card.
        name: String,
        /// The text.
        text: String,
    },
}

impl CalibrationText {
    /// The word `builtin`, or a file.
    pub fn at(path: &Path) -> Self {
        if path == Path::new("builtin") { Self::BuiltIn } else { Self::File(path.to_owned()) }
    }

    /// The file, where it is one.
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

/// Tokens that are taken of these texts by default.
pub fn calibration_tokens(texts: &[CalibrationText]) -> usize {
    let builtin = texts.iter().all(|text| matches!(text, CalibrationText::BuiltIn));
    CALIBRATION_CONTEXT * if builtin { 96 } else { 64 }
}

/// Calibration contexts, and what a user should know of how they came about.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The contexts.
    pub calibration: Calibration,
    /// Sentences.
    pub notes: Vec<String>,
}

/// Tokenizes the texts and cuts them into contexts, at most `most_tokens`. With a seed of `noise`, a share of the contexts
/// becomes noise (docs/quality.md).
///
/// # Errors
/// What the tokenizer says; texts shorter than a context; a token that the network does not have.
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
                // A template that cannot be used is refused by chat; plain text serves here.
                let template = ChatTemplate::of(tokenizer).unwrap_or_else(|error| {
                    notes.push(plain_text(&error));
                    None
                });
                // A template may print the date, and a file must not depend on the day that it is made on.
                let template = template.map(|template| template.with_clock(|| LocalTime::at(CLOCK, 0, 0)));
                all.push(encode(&conversations(template.as_ref(), &mut notes), template.is_some())?);
            }
        }
    }
    let spec = weights.spec();
    let length = CALIBRATION_CONTEXT.min(spec.context);
    let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
    let names: Vec<String> = texts.iter().map(CalibrationText::name).collect();
    let mut calibration = Calibration::new(&all, length, most_tokens.div_ceil(length), bos, names.join(","))?;
    if let Some(seed) = noise {
        let places = calibration.noisy();
        calibration =
            calibration.with_noise(&noise::noise(tokenizer, spec.vocabulary, places, length, seed)?);
    }
    let outside = |&&token: &&u32| token as usize >= spec.vocabulary;
    match calibration.contexts().iter().flatten().find(outside) {
        Some(&token) => Err(kvant_model::Error::Token { token, vocabulary: spec.vocabulary }.into()),
        None => Ok(Calibrated { calibration, notes }),
    }
}

fn plain_text(error: &TemplateError) -> String {
    format!("{error}; the calibration's conversations are plain text")
}

/// The conversations as the model's template writes them, or as plain text where it has none or refuses them.
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
                    notes.push(plain_text(&error));
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
