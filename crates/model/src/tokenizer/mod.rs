//! Text to token ids and back, exactly as llama.cpp does it.
//!
//! A [`Vocabulary`] is what both GGUF metadata and a Hugging Face `tokenizer.json` come to; the tokenizer is built
//! from it alone, so that a model gives the same ids before and after conversion. Control tokens are split from the
//! text first; what is left goes through a byte-level BPE (`byte_pair`, the `tokenizers` crate's model) or
//! SentencePiece's scored merges (`sentencepiece`, our own: the library has no such model).
//!
//! Source: llama.cpp's `src/llama-vocab.cpp`. Left out: WordPiece, Unigram and RWKV vocabularies, which are refused.

mod byte_pair;
mod gguf;
mod hugging_face;
mod pre_tokenizer;
mod sentencepiece;
mod stream;
mod vocabulary;

use kvant_io::{Meta, Value};
use std::collections::HashMap;

pub use pre_tokenizer::PreTokenizer;
pub use stream::TextStream;
pub use vocabulary::{Kind, TokenKind, Vocabulary};

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
}

impl TokenizerError {
    pub(crate) fn key(key: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Key { key: key.into(), expected: expected.into(), found: found.into() }
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

enum Model {
    BytePair(Box<byte_pair::BytePair>),
    SentencePiece(sentencepiece::SentencePiece),
}

/// A tokenizer.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    model: Model,
    /// Tokens that are split from text first, longest text first: id and whether it is a control token.
    split: Vec<(u32, bool)>,
    end_of_generation: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer that a checkpoint carries; `None` where it says that it has none.
    ///
    /// # Errors
    /// A malformed vocabulary, or a kind that kvant does not know.
    pub fn from_meta(meta: &Meta) -> Result<Option<Self>, TokenizerError> {
        let vocabulary = match meta {
            Meta::Gguf(metadata) => gguf::read(metadata)?,
            Meta::HuggingFace(folder) => hugging_face::read(folder)?,
        };
        vocabulary.map(Self::new).transpose()
    }

    /// Builds the tokenizer of a vocabulary.
    ///
    /// # Errors
    /// Merges that name tokens which the vocabulary lacks.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let model = match &vocabulary.kind {
            Kind::BytePair { .. } => Model::BytePair(Box::new(byte_pair::BytePair::new(&vocabulary)?)),
            Kind::SentencePiece { .. } => {
                Model::SentencePiece(sentencepiece::SentencePiece::new(&vocabulary))
            }
        };
        let mut split: Vec<(u32, bool)> = (0..vocabulary.tokens.len() as u32)
            .filter_map(|id| match vocabulary.kinds[id as usize] {
                TokenKind::Control | TokenKind::Unknown => Some((id, true)),
                TokenKind::UserDefined => Some((id, false)),
                _ => None,
            })
            .filter(|(id, _)| !vocabulary.tokens[*id as usize].is_empty())
            .collect();
        // As upstream: longest first, so that a token that contains another is not torn apart.
        split.sort_by_key(|(id, _)| std::cmp::Reverse(vocabulary.tokens[*id as usize].len()));
        let end_of_generation = vocabulary.end_of_generation();
        Ok(Self { vocabulary, model, split, end_of_generation })
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
    /// What the library says; not for any text of a sound vocabulary.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        self.encode_spans(&[(text, special.parse)], special.add)
    }

    /// Spans of one text to ids, each with its own word on whether control tokens in it are parsed. Apart from
    /// that the result is the whole text's: a word that crosses spans is one word.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_spans(&self, spans: &[(&str, bool)], add: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        // An empty text stays empty, whatever the model would add around one.
        if spans.iter().all(|(text, _)| text.is_empty()) {
            return Ok(ids);
        }
        if add && self.adds_bos() {
            ids.extend(self.vocabulary.bos);
        }
        let mut previous_special = true;
        for fragment in self.partition(spans) {
            match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    previous_special = true;
                }
                Fragment::Text(text) => {
                    match &self.model {
                        Model::BytePair(model) => model.encode(&text, &mut ids)?,
                        Model::SentencePiece(model) => {
                            model.encode(&text, &self.vocabulary, previous_special, &mut ids)
                        }
                    }
                    previous_special = false;
                }
            }
        }
        if add && self.vocabulary.add_eos {
            ids.extend(self.vocabulary.eos);
        }
        Ok(ids)
    }

    /// Parts text at special tokens. Neighbouring plain spans are joined.
    fn partition(&self, spans: &[(&str, bool)]) -> Vec<Fragment> {
        let mut fragments: Vec<Fragment> = Vec::new();
        for (text, parse) in spans {
            let mut parts = vec![Part::Text(text)];
            for &(id, control) in &self.split {
                if control && !parse {
                    continue;
                }
                let token = self.vocabulary.tokens[id as usize].as_str();
                if !text.contains(token) {
                    continue;
                }
                parts = parts.into_iter().flat_map(|part| part.split(token, id)).collect();
            }
            for part in parts {
                match (part, fragments.last_mut()) {
                    (Part::Token(id), _) => fragments.push(Fragment::Token(id)),
                    (Part::Text(""), _) => {}
                    (Part::Text(text), Some(Fragment::Text(before))) => before.push_str(text),
                    (Part::Text(text), _) => fragments.push(Fragment::Text(text.to_owned())),
                }
            }
        }
        fragments
    }

    /// The bytes that a token stands for; control tokens stand for none unless `special`.
    pub fn bytes(&self, id: u32, special: bool) -> Vec<u8> {
        let Some(token) = self.vocabulary.tokens.get(id as usize) else { return Vec::new() };
        match self.vocabulary.kinds[id as usize] {
            TokenKind::Control | TokenKind::Unknown if !special => Vec::new(),
            TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => token.as_bytes().to_vec(),
            TokenKind::Unused => Vec::new(),
            TokenKind::Byte => sentencepiece::byte(token).map_or_else(Vec::new, |b| vec![b]),
            TokenKind::Normal => match self.model {
                Model::BytePair(_) => byte_pair::bytes(token),
                Model::SentencePiece(_) => token.replace(sentencepiece::SPACE, " ").into_bytes(),
            },
        }
    }

    /// Ids to text, control tokens left out; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id, false)).collect();
        if matches!(self.model, Model::SentencePiece(_))
            && self.vocabulary.adds_space()
            && bytes.first() == Some(&b' ')
        {
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
    /// More tokens than the embedding has rows.
    pub fn to_gguf(&self, rows: usize) -> Result<Vec<(String, Value)>, TokenizerError> {
        gguf::write(&self.vocabulary, rows)
    }
}

enum Fragment {
    Token(u32),
    Text(String),
}

enum Part<'a> {
    Token(u32),
    Text(&'a str),
}

impl<'a> Part<'a> {
    fn split(self, token: &str, id: u32) -> Vec<Part<'a>> {
        let Part::Text(text) = self else { return vec![self] };
        let mut parts = Vec::new();
        for (i, piece) in text.split(token).enumerate() {
            if i > 0 {
                parts.push(Part::Token(id));
            }
            if !piece.is_empty() {
                parts.push(Part::Text(piece));
            }
        }
        parts
    }
}

/// Text → id of every token; of several with one text the last counts, as upstream.
fn by_text(vocabulary: &Vocabulary) -> HashMap<&str, u32> {
    vocabulary.tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i as u32)).collect()
}
