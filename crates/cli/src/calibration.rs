//! The text that `--calib` names, as tokens; and the text that the program carries.

use crate::failure::Failure;
use crate::{noise, open, terminal};
use kvant::model::{ChatTemplate, LocalTime, Message, Special, TemplateError, Tokenizer};
use kvant::quant::Calibration;
use std::path::{Path, PathBuf};

/// Tokens a context, where the model reads that many.
pub const CONTEXT: usize = 512;

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

/// Tokens that are taken of these sources where nobody says how many.
pub fn tokens(sources: &[PathBuf]) -> usize {
    let builtin = sources.iter().all(|source| source == Path::new("builtin"));
    CONTEXT * if builtin { 96 } else { 64 }
}

/// Reads and cuts the texts; with a seed of `noise`, a share of the contexts gives way to it.
pub fn read(
    sources: &[PathBuf],
    most_tokens: usize,
    noise: Option<u64>,
    opened: &open::Opened,
    tokenizer: &Tokenizer,
) -> Result<Calibration, Failure> {
    let encode = |text: &str, parse: bool| tokenizer.encode(text, Special { add: false, parse });
    let mut texts = Vec::new();
    for source in sources {
        if source == Path::new("builtin") {
            for text in BUILTIN {
                texts.push(encode(text, false)?);
            }
            // A template that cannot be used is chat's to refuse; here plain text serves.
            let template = ChatTemplate::of(tokenizer).unwrap_or_else(|error| {
                terminal::say(format_args!("note: {error}; the calibration's conversations are plain text"));
                None
            });
            // A template may print the date, and a file must not depend on the day that it is made on.
            let template = template.map(|template| template.with_clock(|| LocalTime::at(CLOCK, 0, 0)));
            texts.push(encode(&conversations(template.as_ref()), template.is_some())?);
        } else {
            texts.push(encode(&open::text(source)?, false)?);
        }
    }
    let length = CONTEXT.min(opened.weights.spec().context);
    let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
    let names: Vec<String> = sources.iter().map(|s| s.display().to_string()).collect();
    let calibration = Calibration::new(&texts, length, most_tokens.div_ceil(length), bos, names.join(","))?;
    let vocabulary = opened.weights.spec().vocabulary;
    let calibration = match noise {
        None => calibration,
        Some(seed) => {
            let places = calibration.noisy();
            calibration.with_noise(&noise::noise(tokenizer, vocabulary, places, length, seed)?)
        }
    };
    let outside = |&&token: &&u32| token as usize >= vocabulary;
    match calibration.contexts().iter().flatten().find(outside) {
        Some(&token) => Err(kvant::model::Error::Token { token, vocabulary }.into()),
        None => Ok(calibration),
    }
}

/// The conversations as the model's template writes them, or as plain text where it has none or refuses them.
fn conversations(mut template: Option<&ChatTemplate>) -> String {
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
                    terminal::say(format_args!(
                        "note: {error}; the calibration's conversations are plain text"
                    ));
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
