//! Text to token ids and back: in a Hugging Face folder exactly as the folder's own library does it, in a GGUF exactly as
//! llama.cpp does it.
//!
//! A [`Vocabulary`] is what a GGUF says, and what a folder's files come to in a GGUF's words; what they say beyond that is
//! kept in the tokenizer and told when a GGUF is written ([`Tokenizer::gguf_notes`]). Added tokens are split from the text
//! first (`added`); what is left goes through a folder's steps (`pipeline`, `processor`) or a GGUF's.
//!
//! Sources: the `tokenizers` crate, SentencePiece, `transformers`' tokenizer classes, llama.cpp's
//! `src/llama-vocab.cpp`. Left out: WordPiece, Unigram and RWKV vocabularies in a GGUF, which are refused.

mod added;
mod byte_pair;
mod charsmap;
mod classes;
mod difference;
mod express;
mod folder;
mod gguf;
mod json;
mod model;
mod pipeline;
mod pre_tokenizer;
mod processor;
mod protobuf;
mod sentencepiece;
mod settings;
mod slow;
mod steps;
mod stream;
#[cfg(test)]
mod tests;
mod unigram;
mod vocabulary;
mod word_piece;

use added::{Added, AddedTokens};
use kvant_io::{Meta, Metadata, Value};
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

pub use pre_tokenizer::PreTokenizer;
pub use stream::TextStream;
pub use vocabulary::{Kind, TokenKind, Vocabulary};

/// Ids that a file may name are below this: far above real vocabularies.
const LARGEST_ID: u32 = 1 << 22;

/// What is wrong with a vocabulary.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key that is missing, or not what it must be.
    #[error("tokenizer: {key}: expected {expected}, found {found}")]
    Key {
        /// The key in GGUF metadata or `tokenizer.json`.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A pre-tokenizer that kvant does not know: guessing would split text wrongly.
    #[error("tokenizer: pre-tokenizer {found:?} is not known; known are: {known}")]
    PreTokenizer {
        /// Its name, or a description.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// The `tokenizers` library refuses the vocabulary or a text.
    #[error("tokenizer: {0}")]
    Library(String),
    /// A file of the folder that cannot be read.
    #[error(transparent)]
    Unreadable(#[from] kvant_io::Error),
    /// A file of a folder.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },
}

/// Bytes of a file's own words that an error repeats.
const LONGEST_FOUND: usize = 300;

impl TokenizerError {
    pub(crate) fn key(key: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let short = |text: String| match text.char_indices().nth(LONGEST_FOUND) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        Self::Key { key: short(key.into()), expected: short(expected.into()), found: short(found.into()) }
    }
}

/// What happens to special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// Whether BOS and EOS are added as the model adds them.
    pub add: bool,
    /// Whether control tokens spelled out in the text become those tokens.
    pub parse: bool,
}

/// How text between special tokens becomes ids.
enum Engine {
    /// llama.cpp's words of bytes.
    BytePair { model: Box<byte_pair::BytePair>, pre_tokenizer: PreTokenizer, added: AddedTokens },
    /// llama.cpp's SentencePiece.
    Scored(Box<Scored>),
    /// A `tokenizer.json`, or what older files come to.
    Pipeline(Box<pipeline::Pipeline>),
    /// A `tokenizer.model`.
    Processor(Box<processor::Processor>),
}

struct Scored {
    model: sentencepiece::Scored,
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    add_space_prefix: bool,
    added: AddedTokens,
}

/// How tokens spell text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Spelling {
    /// A printable character a byte.
    Bytes,
    /// `▁` for a space.
    Marks,
    /// A space before every token that does not begin with the prefix.
    Words { prefix: String },
    /// As it is.
    Plain,
}

/// A tokenizer.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    engine: Engine,
    spelling: Spelling,
    /// Ids before and behind a whole text.
    around: (Vec<u32>, Vec<u32>),
    end_of_generation: Vec<u32>,
    notes: Vec<String>,
}

impl Tokenizer {
    /// The tokenizer that a checkpoint carries; `None` where it says that it has none.
    ///
    /// # Errors
    /// A malformed vocabulary, or a kind that kvant does not know.
    pub fn from_meta(meta: &Meta) -> Result<Option<Self>, TokenizerError> {
        match meta {
            Meta::Gguf(metadata) => gguf::read(metadata)?.map(Self::new).transpose(),
            Meta::HuggingFace(folder) => {
                folder.check_readable()?;
                Ok(folder::read(folder)?.map(|loaded| Self {
                    end_of_generation: loaded.vocabulary.end_of_generation(),
                    vocabulary: loaded.vocabulary,
                    engine: loaded.engine,
                    spelling: loaded.spelling,
                    around: loaded.around,
                    notes: loaded.notes,
                }))
            }
        }
    }

    /// Builds the tokenizer of a vocabulary, as llama.cpp runs it.
    ///
    /// # Errors
    /// Merges that name tokens which the vocabulary lacks; a vocabulary that has no words in GGUF.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let special =
            (0..).zip(&vocabulary.tokens).filter_map(|(id, text)| match vocabulary.kinds[id as usize] {
                TokenKind::Control | TokenKind::Unknown => Some(Added::plain(id, text.clone(), true)),
                TokenKind::UserDefined => Some(Added::plain(id, text.clone(), false)),
                _ => None,
            });
        let added = AddedTokens::longest(special.collect())?;
        let all = || (0..).zip(&vocabulary.tokens).map(|(id, text)| (text.clone(), id));
        let (engine, spelling) = match &vocabulary.kind {
            Kind::BytePair { merges, pre_tokenizer, ignore_merges } => {
                let model = byte_pair::BytePair::new(byte_pair::Settings {
                    vocabulary: all().collect(),
                    merges: merges.clone(),
                    first_counts: true,
                    of_bytes: true,
                    ignore_merges: *ignore_merges,
                    byte_fallback: false,
                    unknown: None,
                    fuse_unknown: false,
                    prefix: String::new(),
                    suffix: String::new(),
                })?;
                let pre_tokenizer = *pre_tokenizer;
                (Engine::BytePair { model: Box::new(model), pre_tokenizer, added }, Spelling::Bytes)
            }
            Kind::SentencePiece { scores, add_space_prefix } => {
                // Of several tokens with one text the last counts, as upstream.
                let ids: HashMap<String, u32> = all().collect();
                let bytes = (0..256).map(|b| ids.get(&format!("<0x{b:02X}>")).copied()).collect();
                let scored = Scored {
                    model: sentencepiece::Scored::new(ids, scores.clone(), Vec::new()),
                    bytes,
                    unknown: vocabulary.unknown,
                    add_space_prefix: *add_space_prefix,
                    added,
                };
                (Engine::Scored(Box::new(scored)), Spelling::Marks)
            }
            Kind::Folder { reason } => {
                return Err(TokenizerError::key(
                    "vocabulary",
                    "one that GGUF has words for",
                    reason.as_str(),
                ));
            }
        };
        let end_of_generation = vocabulary.end_of_generation();
        let around = (
            vocabulary.bos.filter(|_| vocabulary.add_bos).into_iter().collect(),
            vocabulary.eos.filter(|_| vocabulary.add_eos).into_iter().collect(),
        );
        Ok(Self { vocabulary, engine, spelling, around, end_of_generation, notes: Vec::new() })
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// Whether the model wants texts to begin with BOS.
    pub fn adds_bos(&self) -> bool {
        self.vocabulary.add_bos && self.vocabulary.bos.is_some()
    }

    /// Tokens that end an answer.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The model's own chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.vocabulary.chat_template.as_deref()
    }

    /// Whether a token stands for no text of its own: control and unknown tokens.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.kinds.get(id as usize), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The id of a token's text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.tokens.iter().position(|t| t == token).map(|i| i as u32)
    }

    /// Text to ids.
    ///
    /// # Errors
    /// Where an expression of the tokenizer gives up on the text, or the tokenizer has no word for a character.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        self.encode_spans(&[(text, special.parse)], special.add)
    }

    /// Spans of one text to ids, each with its own word on whether control tokens in it are parsed. Apart from
    /// that the result is the whole text's: a word that crosses spans is one word. A control token stands in spans of
    /// one kind alone.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_spans(&self, spans: &[(&str, bool)], add: bool) -> Result<Vec<u32>, TokenizerError> {
        // An empty text stays empty, whatever the model would add around one.
        if spans.iter().all(|(text, _)| text.is_empty()) {
            return Ok(Vec::new());
        }
        let joined: String;
        let text = match spans {
            [(text, _)] => *text,
            _ => {
                joined = spans.iter().map(|(text, _)| *text).collect();
                &joined
            }
        };
        let mut open: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        for (span, parse) in spans.iter().filter(|(span, _)| !span.is_empty()) {
            let range = at..at + span.len();
            at = range.end;
            match open.last_mut() {
                _ if !parse => {}
                Some(last) if last.end == range.start => last.end = range.end,
                _ => open.push(range),
            }
        }
        let mut ids = Vec::new();
        if add {
            ids.extend(&self.around.0);
        }
        match &self.engine {
            Engine::BytePair { model, pre_tokenizer, added } => {
                let mut remembered = byte_pair::Remembered::new();
                fragments(text, added.find(text, &open)?, &mut |fragment| match fragment {
                    Fragment::Token(id) => ids.push(id),
                    Fragment::Text(text) => {
                        pre_tokenizer.words(text, &mut |word| model.encode(word, &mut remembered, &mut ids));
                    }
                });
            }
            Engine::Scored(scored) => scored.encode(text, &open, &mut ids)?,
            Engine::Pipeline(pipeline) => pipeline.encode(text, &open, &mut ids)?,
            Engine::Processor(processor) => processor.encode(text, &open, &mut ids)?,
        }
        if add {
            ids.extend(&self.around.1);
        }
        Ok(ids)
    }

    /// The bytes that a token stands for; control tokens stand for none unless `special`.
    pub fn bytes(&self, id: u32, special: bool) -> Vec<u8> {
        let Some(token) = self.vocabulary.tokens.get(id as usize) else { return Vec::new() };
        match self.vocabulary.kinds[id as usize] {
            TokenKind::Control | TokenKind::Unknown if !special => Vec::new(),
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => token.as_bytes().to_vec(),
            TokenKind::Unused => Vec::new(),
            TokenKind::Byte => sentencepiece::byte(token).map_or_else(Vec::new, |b| vec![b]),
            TokenKind::Normal => match &self.spelling {
                Spelling::Bytes => byte_pair::bytes(token),
                Spelling::Marks => token.replace(sentencepiece::SPACE, " ").into_bytes(),
                Spelling::Words { prefix } => match token.strip_prefix(prefix.as_str()) {
                    Some(rest) if !prefix.is_empty() => rest.as_bytes().to_vec(),
                    _ => format!(" {token}").into_bytes(),
                },
                Spelling::Plain => token.as_bytes().to_vec(),
            },
        }
    }

    /// Whether the first space of a text is the tokenizer's own.
    fn adds_space(&self) -> bool {
        match (&self.spelling, &self.vocabulary.kind) {
            (Spelling::Words { .. }, _) => true,
            (Spelling::Marks, Kind::SentencePiece { add_space_prefix, .. }) => *add_space_prefix,
            (Spelling::Marks, Kind::Folder { .. }) => true,
            _ => false,
        }
    }

    /// Ids to text, control tokens left out; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id, false)).collect();
        if self.adds_space() && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A token as people read it: its text with control tokens spelled out.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.bytes(id, true)).into_owned()
    }

    /// GGUF metadata entries that upstream writes for this tokenizer, padded to the embedding's `rows`.
    ///
    /// # Errors
    /// More tokens than the embedding has rows; a tokenizer that GGUF has no words for.
    pub fn to_gguf(&self, rows: usize) -> Result<Vec<(String, Value)>, TokenizerError> {
        gguf::write(&self.vocabulary, rows)
    }

    /// What a GGUF with these entries does not say of this tokenizer, each in a sentence; the ids of both on texts of every
    /// kind are compared, too.
    ///
    /// # Errors
    /// As [`Tokenizer::to_gguf`].
    pub fn gguf_notes(&self, rows: usize) -> Result<Vec<String>, TokenizerError> {
        let mut notes = self.notes.clone();
        notes.extend(gguf::notes(&self.vocabulary));
        let mut metadata = Metadata::default();
        for (key, value) in self.to_gguf(rows)? {
            metadata.set(key, value);
        }
        if let Some(twin) = Self::from_meta(&Meta::Gguf(metadata))?
            && let Some(difference) = self.sampled_difference(&twin)?
        {
            notes.push(format!("in the GGUF some texts become other ids than in this folder: {difference}"));
        }
        Ok(notes)
    }
}

/// A part of a text.
enum Fragment<'a> {
    Token(u32),
    Text(&'a str),
}

/// Hands over tokens and the text between them, in order.
fn fragments<'a>(text: &'a str, found: Vec<added::Found>, take: &mut dyn FnMut(Fragment<'a>)) {
    let mut end = 0;
    for (place, id) in found {
        if place.start > end {
            take(Fragment::Text(&text[end..place.start]));
        }
        take(Fragment::Token(id));
        end = place.end;
    }
    if end < text.len() {
        take(Fragment::Text(&text[end..]));
    }
}

impl Scored {
    fn encode(&self, text: &str, open: &added::Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut remembered = sentencepiece::Remembered::new();
        let mut after_token = true;
        fragments(text, self.added.find(text, open)?, &mut |fragment| match fragment {
            Fragment::Token(id) => {
                ids.push(id);
                after_token = true;
            }
            Fragment::Text(text) => {
                let prefix = if after_token && self.add_space_prefix { sentencepiece::SPACE } else { "" };
                let text = format!("{prefix}{}", text.replace(' ', sentencepiece::SPACE));
                self.model.encode(&text, &mut remembered, &mut |part, id| match id {
                    Some(id) => ids.push(id),
                    None => {
                        ids.extend(part.bytes().filter_map(|b| self.bytes[usize::from(b)].or(self.unknown)));
                    }
                });
                after_token = false;
            }
        });
        Ok(())
    }
}
