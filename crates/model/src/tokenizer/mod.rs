//! Converts text to token ids and back. For a Hugging Face folder the ids are exactly those of the folder's own
//! library. For a GGUF file they are exactly those of llama.cpp.
//!
//! A [`Vocabulary`] holds the tokenizer settings of a GGUF file. For a folder it holds only the settings that GGUF can
//! express. The tokenizer also keeps the folder's other settings; [`Tokenizer::gguf_notes`] lists them when a GGUF file
//! is written. Added tokens (texts that always become one token) are separated from the text first (`added`). The text
//! between added tokens goes through the steps of a folder's tokenizer (`pipeline`, `processor`) or of a GGUF
//! tokenizer.
//!
//! Sources: the `tokenizers` crate, SentencePiece, `transformers`' tokenizer classes, llama.cpp's
//! `src/llama-vocab.cpp`. Not covered here: the vocabularies `rwkv`, `plamo2` and `hybriddna` in a GGUF file; they are
//! refused.

mod added;
mod byte_pair;
mod charsmap;
mod classes;
mod cut;
mod difference;
mod express;
mod expressions;
mod folder;
mod gguf;
mod json;
mod merged;
mod model;
mod pieces;
mod pipeline;
mod pre_tokenizer;
mod prefixes;
mod processor;
mod protobuf;
mod scored;
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
mod word_pieces;
mod words;

use added::{Added, AddedTokens};
use kvant_io::{Meta, Metadata, Value};
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

pub use pre_tokenizer::PreTokenizer;
use pre_tokenizer::Symbols;
pub use stream::TextStream;
pub use vocabulary::{Kind, TokenKind, Vocabulary};

/// Exclusive upper limit of the ids in a file. Real vocabularies are far below this limit.
const LARGEST_ID: u32 = 1 << 22;

/// A hash map with a fast hash function, whose seed is random: a file cannot choose keys that collide.
type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// An error in a vocabulary, or a text that a tokenizer cannot encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key that is missing or has a wrong value.
    #[error("tokenizer: {key}: expected {expected}, found {found}")]
    Key {
        /// The key in GGUF metadata or `tokenizer.json`.
        key: String,
        /// Description of the allowed values.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A pre-tokenizer (the rule that splits text into words) that kvant does not know. A guess could split text
    /// wrongly.
    #[error("tokenizer: pre-tokenizer {found:?} is not known; known are: {known}")]
    PreTokenizer {
        /// Name or description of the pre-tokenizer.
        found: String,
        /// The names that kvant knows.
        known: String,
    },
    /// The `tokenizers` library refuses the vocabulary or a text.
    #[error("tokenizer: {0}")]
    Library(String),
    /// A file of the folder that cannot be read.
    #[error(transparent)]
    Unreadable(#[from] kvant_io::Error),
    /// An error in one file of a folder.
    #[error("{path}: {source}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The error in this file.
        source: Box<TokenizerError>,
    },
}

/// Largest number of characters that an error quotes from a file.
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

/// How encoding treats special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// True if BOS and EOS are added if the model's settings add them.
    pub add: bool,
    /// True if the text of a control token, such as `<s>`, becomes this control token.
    pub parse: bool,
}

/// The algorithm that converts text between added tokens to ids.
enum Engine {
    /// llama.cpp's BPE with merges.
    Merged(Box<merged::Merged>),
    /// llama.cpp's SentencePiece BPE, which merges by scores.
    Scored(Box<scored::Scored>),
    /// llama.cpp's WordPiece.
    WordPieces(Box<word_pieces::WordPieces>),
    /// llama.cpp's Unigram.
    Pieces(Box<pieces::Pieces>),
    /// The steps of a `tokenizer.json`, or the equivalent steps for `vocab.json` with `merges.txt`.
    Pipeline(Box<pipeline::Pipeline>),
    /// SentencePiece's own algorithm, for a `tokenizer.model`.
    Processor(Box<processor::Processor>),
}

/// How the text of a token spells the text that the token encodes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Spelling {
    /// One printable character for each byte (GPT-2).
    Bytes,
    /// `▁` spells a space (SentencePiece).
    Marks,
    /// A space goes before every token that does not begin with the prefix (WordPiece).
    Words { prefix: String },
    /// The text of the token, unchanged.
    Plain,
}

/// Converts text to token ids and back.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    engine: Engine,
    spelling: Spelling,
    /// Ids that are added before and after a whole text.
    around: (Vec<u32>, Vec<u32>),
    end_of_generation: Vec<u32>,
    /// Settings of a folder's tokenizer that GGUF cannot express, one sentence each.
    notes: Vec<String>,
}

impl Tokenizer {
    /// Makes the tokenizer of a checkpoint; returns `None` if the checkpoint has no tokenizer.
    ///
    /// # Errors
    /// An error for a malformed vocabulary, or for a kind of tokenizer that kvant does not know.
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

    /// Makes the tokenizer of a vocabulary. Its ids are those of llama.cpp.
    ///
    /// # Errors
    /// An error if merges name tokens that the vocabulary lacks, or if GGUF cannot express the vocabulary.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let has = |ids: &[u32], id: u32| ids.contains(&id);
        let special = (0..).zip(&vocabulary.tokens).filter_map(|(id, text)| {
            let control = match vocabulary.kinds[id as usize] {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                _ => return None,
            };
            Some(Added {
                lstrip: has(&vocabulary.takes_before, id),
                rstrip: has(&vocabulary.takes_after, id),
                ..Added::plain(id, text.clone(), control)
            })
        });
        let added = AddedTokens::longest(special.collect())?;
        let all = || (0..).zip(&vocabulary.tokens).map(|(id, text)| (text.clone(), id));
        // If several tokens have the same text, the last one counts, as in upstream.
        let ids = || all().collect::<Map<String, u32>>();
        let unknown = vocabulary.unknown;
        let (engine, spelling) = match &vocabulary.kind {
            Kind::BytePair { merges, pre_tokenizer, ignore_merges } => {
                let merges = merges.clone();
                let merged =
                    merged::Merged::new(all().collect(), merges, *pre_tokenizer, *ignore_merges, added)?;
                let spelling = match pre_tokenizer.symbols() {
                    Symbols::Bytes => Spelling::Bytes,
                    Symbols::Marks { .. } => Spelling::Marks,
                    Symbols::Plain { .. } => Spelling::Plain,
                };
                (Engine::Merged(Box::new(merged)), spelling)
            }
            Kind::SentencePiece { scores, add_space_prefix } => {
                let scored = scored::Scored::new(ids(), scores.clone(), unknown, *add_space_prefix, added);
                (Engine::Scored(Box::new(scored)), Spelling::Marks)
            }
            Kind::WordPiece { lowercase, strip_accents, .. } => {
                let pieces = word_pieces::WordPieces::new(ids(), unknown, *lowercase, *strip_accents, added);
                (Engine::WordPieces(Box::new(pieces)), Spelling::Marks)
            }
            Kind::Unigram { scores, charsmap, add_space_prefix, remove_extra_whitespaces } => {
                let settings = pieces::Settings {
                    tokens: &vocabulary.tokens,
                    kinds: &vocabulary.kinds,
                    scores,
                    charsmap,
                    unknown,
                    add_space_prefix: *add_space_prefix,
                    remove_extra_whitespaces: *remove_extra_whitespaces,
                };
                (Engine::Pieces(Box::new(pieces::Pieces::new(&settings, added)?)), Spelling::Marks)
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
            match &vocabulary.kind {
                Kind::WordPiece { separator, .. } => separator.iter().copied().collect(),
                _ => vocabulary.eos.filter(|_| vocabulary.add_eos).into_iter().collect(),
            },
        );
        Ok(Self { vocabulary, engine, spelling, around, end_of_generation, notes: Vec::new() })
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// True if there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// True if BOS is added before a text.
    pub fn adds_bos(&self) -> bool {
        self.vocabulary.add_bos && self.vocabulary.bos.is_some()
    }

    /// The ids that are added before and after a whole text.
    pub fn around(&self) -> (&[u32], &[u32]) {
        (&self.around.0, &self.around.1)
    }

    /// Tokens that end an answer.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The model's own chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.vocabulary.chat_template.as_deref()
    }

    /// True if a token is a control token or the unknown token. Such a token encodes no text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.kinds.get(id as usize), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The id of the token with the text `token`; `None` if there is no such token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.tokens.iter().position(|t| t == token).map(|i| i as u32)
    }

    /// Converts text to ids.
    ///
    /// # Errors
    /// An error if a regular expression of the tokenizer fails on the text (too much backtracking), or if the tokenizer
    /// has no token for a character.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        self.encode_spans(&[(text, special.parse)], special.add)
    }

    /// Converts one text, which is given as spans, to ids. The flag of a span says whether control tokens are
    /// recognized in this span. In all other respects the spans are encoded as one text, so a word may cross the border
    /// of two spans. A control token is recognized only if all spans that contain its bytes have the flag true. `add`
    /// says whether BOS and EOS are added if the model's settings add them.
    ///
    /// # Errors
    /// The errors of [`Tokenizer::encode`].
    pub fn encode_spans(&self, spans: &[(&str, bool)], add: bool) -> Result<Vec<u32>, TokenizerError> {
        // An empty text gives no ids, even if the model adds BOS or EOS.
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
            Engine::Merged(merged) => merged.encode(text, &open, &mut ids)?,
            Engine::Scored(scored) => scored.encode(text, &open, &mut ids)?,
            Engine::WordPieces(pieces) => pieces.encode(text, &open, &mut ids)?,
            Engine::Pieces(pieces) => pieces.encode(text, &open, &mut ids)?,
            Engine::Pipeline(pipeline) => pipeline.encode(text, &open, &mut ids)?,
            Engine::Processor(processor) => processor.encode(text, &open, &mut ids)?,
        }
        if add {
            ids.extend(&self.around.1);
        }
        Ok(ids)
    }

    /// The bytes of text that a token encodes. A control token gives no bytes; if `special` is true, it gives the bytes
    /// of its own text.
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

    /// True if the tokenizer adds a space before a text. Decoding then removes the first space.
    pub fn adds_space(&self) -> bool {
        match (&self.spelling, &self.vocabulary.kind) {
            (Spelling::Words { .. }, _) => true,
            (Spelling::Marks, Kind::SentencePiece { add_space_prefix, .. }) => *add_space_prefix,
            (Spelling::Marks, Kind::Unigram { add_space_prefix, remove_extra_whitespaces, .. }) => {
                *add_space_prefix || *remove_extra_whitespaces
            }
            (Spelling::Marks, Kind::Folder { .. } | Kind::WordPiece { .. }) => true,
            _ => false,
        }
    }

    /// Converts ids to text. Control tokens give no text. Bytes that are not valid UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id, false)).collect();
        if self.adds_space() && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text of a token for display. A control token gives its own text, such as `<s>`.
    pub fn piece(&self, id: u32) -> String {
        self.pieces(&[id])
    }

    /// The text of tokens for display. Control tokens give their own texts, and no space is removed.
    pub fn pieces(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.bytes(*id, true)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the GGUF metadata entries that upstream writes for this tokenizer. The token list is padded to `rows`,
    /// the number of rows of the embedding.
    ///
    /// # Errors
    /// An error if there are more than `rows` tokens, or if GGUF cannot express the tokenizer.
    pub fn to_gguf(&self, rows: usize) -> Result<Vec<(String, Value)>, TokenizerError> {
        gguf::write(&self.vocabulary, rows)
    }

    /// Lists the settings of this tokenizer that a GGUF file with the entries of [`Tokenizer::to_gguf`] does not
    /// contain, one sentence each. Also compares the ids of this tokenizer and of the GGUF tokenizer on sample texts.
    ///
    /// # Errors
    /// The errors of [`Tokenizer::to_gguf`] and [`Tokenizer::encode`].
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

/// A part of a text: an added token, or the text between two added tokens.
enum Fragment<'a> {
    Token(u32),
    Text(&'a str),
}

/// Calls `take` with every added token in `found` and every text between them, in order.
///
/// # Errors
/// The first error of `take`.
fn fragments<'a>(
    text: &'a str,
    found: Vec<added::Found>,
    take: &mut dyn FnMut(Fragment<'a>) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    let mut end = 0;
    for (place, id) in found {
        if place.start > end {
            take(Fragment::Text(&text[end..place.start]))?;
        }
        take(Fragment::Token(id))?;
        end = place.end;
    }
    if end < text.len() {
        take(Fragment::Text(&text[end..]))?;
    }
    Ok(())
}
