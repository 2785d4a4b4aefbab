//! Normalizers and pre-tokenizers of a `tokenizer.json`. They are the code of the `tokenizers` crate ("the library"),
//! except that regular expressions run here.

use super::TokenizerError;
use super::charsmap::Charsmap;
use super::cut::Cut;
use super::json::kind;
use super::words::Words;
use serde_json::Value as Json;
use std::borrow::Cow;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::{
    NormalizedString, Normalizer as _, NormalizerWrapper, PreTokenizedString, PreTokenizer as _,
    PreTokenizerWrapper, SplitDelimiterBehavior,
};
use unicode_normalization_alignments::UnicodeNormalization;

/// One step of the normalizer.
pub(super) enum Normalizer {
    Library(NormalizerWrapper),
    /// Replaces every match by a text.
    Replace(Cut, String),
    Charsmap(Charsmap),
}

/// One step of the pre-tokenizer.
pub(super) enum Split {
    Library(PreTokenizerWrapper),
    Cut {
        cut: Cut,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// Adds a space before text that does not begin with one, for words of bytes.
    Space,
    /// `first` runs at the beginning of the whole text, `others` runs elsewhere. If the file adds `▁` only before the
    /// whole text, `others` adds no `▁`.
    Metaspace {
        first: PreTokenizerWrapper,
        others: PreTokenizerWrapper,
    },
}

/// Makes the cut from the `pattern` of a step.
pub(super) fn pattern(step: &Json) -> Result<Cut, TokenizerError> {
    let pattern = &step["pattern"];
    if let Some(expression) = pattern["Regex"].as_str() {
        return Cut::expression(expression);
    }
    let text = pattern["String"].as_str();
    let text = text.ok_or_else(|| TokenizerError::key("pattern", "String or Regex", pattern.to_string()))?;
    Cut::expression(&fancy_regex::escape(text))
}

impl Pattern for &Cut {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(tokenizers::Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut all = Vec::new();
        let start = inside.as_ptr() as usize;
        self.parts(inside, &mut |part, is_match| {
            let from = part.as_ptr() as usize - start;
            all.push(((from, from + part.len()), is_match));
            Ok(())
        })?;
        Ok(all)
    }
}

/// Converts an error of the library. A [`TokenizerError`] inside it is returned unchanged.
fn library(error: tokenizers::Error) -> TokenizerError {
    match error.downcast::<TokenizerError>() {
        Ok(own) => *own,
        Err(error) => TokenizerError::Library(error.to_string()),
    }
}

/// Makes a type of the library from the JSON of a step. `key` names the step in errors.
fn step<T: serde::de::DeserializeOwned>(step: &Json, key: &str) -> Result<T, TokenizerError> {
    serde_json::from_value(step.clone()).map_err(|e| {
        TokenizerError::key(format!("{key} {}", kind(step)), "one that `tokenizers` has", e.to_string())
    })
}

impl Normalizer {
    pub fn new(json: &Json) -> Result<Self, TokenizerError> {
        match kind(json) {
            "Replace" => {
                let content = json["content"].as_str().unwrap_or_default().to_owned();
                Ok(Self::Replace(pattern(json)?, content))
            }
            "Precompiled" => {
                let map =
                    json["precompiled_charsmap"].as_str().and_then(base64).and_then(|b| Charsmap::new(&b));
                map.map(Self::Charsmap).ok_or_else(|| {
                    TokenizerError::key(
                        "precompiled_charsmap",
                        "SentencePiece's rules in base64",
                        "something else",
                    )
                })
            }
            _ => step(json, "normalizer").map(Self::Library),
        }
    }

    /// Returns the normalized text, without the original positions of its parts.
    pub fn normalized<'a>(&self, text: Cow<'a, str>) -> Result<Cow<'a, str>, TokenizerError> {
        Ok(match self {
            Self::Library(NormalizerWrapper::NFC(_)) => unicode_form(text, is_composed, |part, into| {
                into.extend(part.nfc().map(|(c, _)| c));
            }),
            Self::Library(NormalizerWrapper::NFKC(_)) => unicode_form(text, is_compatible, |part, into| {
                into.extend(part.nfkc().map(|(c, _)| c));
            }),
            Self::Library(step) => {
                let mut normalized = NormalizedString::from(text.into_owned());
                step.normalize(&mut normalized).map_err(library)?;
                normalized.get().to_owned().into()
            }
            Self::Replace(cut, content) => {
                let mut replaced = String::with_capacity(text.len());
                cut.parts(&text, &mut |part, is_match| {
                    replaced.push_str(if is_match { content } else { part });
                    Ok(())
                })?;
                replaced.into()
            }
            Self::Charsmap(map) => map.normalized(&text).into(),
        })
    }

    pub fn apply(&self, text: &mut NormalizedString) -> Result<(), TokenizerError> {
        match self {
            Self::Library(library) => library.normalize(text),
            Self::Replace(cut, content) => text.replace(cut, content),
            Self::Charsmap(map) => {
                if let Some(changes) = map.by_cluster(text.get()) {
                    text.transform(changes, 0);
                }
                Ok(())
            }
        }
        .map_err(library)
    }
}

/// Applies a Unicode normalization form to the parts of a text that it can change. `is_stable` says for a character that
/// the form changes neither this character nor the one before it, unless the next characters are not stable. `append`
/// appends the form of a part.
fn unicode_form<'a>(
    text: Cow<'a, str>,
    is_stable: fn(char) -> bool,
    append: impl Fn(&str, &mut String),
) -> Cow<'a, str> {
    if text.chars().all(is_stable) {
        return text;
    }
    let mut normalized = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(first) = rest.find(|c| !is_stable(c)) {
        // A mark can change the character before it.
        let start = rest[..first].char_indices().next_back().map_or(0, |(at, _)| at);
        normalized.push_str(&rest[..start]);
        let length = rest[first..].find(is_stable).unwrap_or(rest.len() - first);
        append(&rest[start..first + length], &mut normalized);
        rest = &rest[first + length..];
    }
    normalized.push_str(rest);
    normalized.into()
}

/// True if NFC does not change this character, independent of its neighbours. `false` only means that this is not
/// certain.
fn is_composed(c: char) -> bool {
    matches!(
        u32::from(c),
        0..=0x2ff
            | 0x400..=0x482
            | 0x2010..=0x205f
            | 0x3001..=0x3029
            | 0x3030..=0x3098
            | 0x30a0..=0x30ff
            | 0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xac00..=0xd7a3
            | 0xff01..=0xff60
            | 0x1f300..=0x1faff
    )
}

/// Like [`is_composed`], for NFKC.
fn is_compatible(c: char) -> bool {
    matches!(u32::from(c), 0..=0x9f | 0x400..=0x482 | 0x3041..=0x3096 | 0x4e00..=0x9fff | 0xac00..=0xd7a3)
}

impl Split {
    /// Appends the steps for a pre-tokenizer of the file to `all`. If `of_bytes` is true, the step `ByteLevel` does not
    /// change the spelling of bytes, because the model takes words of bytes as plain text.
    pub fn add(json: &Json, of_bytes: bool, all: &mut Vec<Self>) -> Result<(), TokenizerError> {
        let isolated = |cut| Self::Cut { cut, behavior: SplitDelimiterBehavior::Isolated, invert: false };
        match kind(json) {
            "Split" => {
                let behavior = step(&serde_json::json!(json["behavior"]), "behavior")?;
                let invert = json["invert"].as_bool().unwrap_or(false);
                all.push(Self::Cut { cut: pattern(json)?, behavior, invert });
            }
            "ByteLevel" => {
                if json["add_prefix_space"].as_bool().unwrap_or(true) {
                    all.push(Self::Space);
                }
                if json["use_regex"].as_bool().unwrap_or(true) {
                    all.push(isolated(Cut::Words(Words::GPT2)));
                }
                if !of_bytes {
                    let spelled = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false,
                        "trim_offsets": false, "use_regex": false });
                    all.push(Self::Library(step(&spelled, "pre_tokenizer")?));
                }
            }
            "Digits" => {
                let each = json["individual_digits"].as_bool().unwrap_or(false);
                all.push(isolated(Cut::expression(if each { r"\p{N}" } else { r"\p{N}+" })?));
            }
            "FixedLength" if json["length"].as_u64() == Some(0) => {
                return Err(TokenizerError::key("pre_tokenizer FixedLength", "a length above 0", "0"));
            }
            "Metaspace" => {
                let first: PreTokenizerWrapper = step(json, "pre_tokenizer")?;
                let mut others = json.clone();
                if json["prepend_scheme"].as_str() == Some("first") {
                    others["prepend_scheme"] = "never".into();
                }
                all.push(Self::Metaspace { first, others: step(&others, "pre_tokenizer")? });
            }
            _ => all.push(Self::Library(step(json, "pre_tokenizer")?)),
        }
        Ok(())
    }

    pub fn apply(&self, text: &mut PreTokenizedString, at_start: bool) -> Result<(), TokenizerError> {
        match self {
            Self::Library(library) => library.pre_tokenize(text),
            Self::Metaspace { first, others } => {
                if at_start {
                    first.pre_tokenize(text)
                } else {
                    others.pre_tokenize(text)
                }
            }
            Self::Cut { cut, behavior, invert } => text.split(|_, part| match invert {
                true => part.split(Invert(cut), *behavior),
                false => part.split(cut, *behavior),
            }),
            Self::Space => text.split(|_, mut part| {
                if !part.get().starts_with(' ') {
                    part.prepend(" ");
                }
                Ok(vec![part])
            }),
        }
        .map_err(library)
    }
}

/// Decodes a base64 text; returns `None` if it has a character that is not base64.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        held = held << 6 | u32::from(digit(c)?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}
