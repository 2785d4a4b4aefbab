//! Byte-level BPE: words by regular expression, bytes as printable characters, merges by rank.
//!
//! The splitting and merging is the `tokenizers` crate's.

use super::{Kind, TokenizerError, Vocabulary};
use std::collections::HashMap;
use std::sync::OnceLock;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    TokenizerImpl,
};

type Library =
    TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// The library's tokenizer without special tokens.
pub(super) struct BytePair(Library);

/// Text longer than this goes to the library in pieces, cut where no word can cross: bounds its memory.
const PIECE_BYTES: usize = 1 << 16;

impl BytePair {
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let Kind::BytePair { merges, pre_tokenizer, ignore_merges } = &vocabulary.kind else {
            return Err(TokenizerError::key("tokenizer.ggml.model", "gpt2", "another kind"));
        };
        let library = |e: tokenizers::Error| TokenizerError::Library(e.to_string());
        let tokens: tokenizers::models::bpe::Vocab =
            vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
        let model =
            BPE::builder().vocab_and_merges(tokens, merges.clone()).ignore_merges(*ignore_merges).build();
        let mut splits: Vec<PreTokenizerWrapper> = Vec::new();
        for expression in pre_tokenizer.expressions() {
            let pattern = SplitPattern::Regex((*expression).to_owned());
            splits
                .push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(library)?.into());
        }
        splits.push(ByteLevel::new(false, false, false).into());
        let mut inner = Library::new(model.map_err(library)?);
        inner.with_pre_tokenizer(Some(Sequence::new(splits)));
        Ok(Self(inner))
    }

    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        for piece in pieces(text) {
            let encoding =
                self.0.encode_fast(piece, false).map_err(|e| TokenizerError::Library(e.to_string()))?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(())
    }
}

/// Cuts long text before a space between two ASCII letters: every split that kvant knows begins a word there,
/// whatever stands around.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len();
        if rest.len() > PIECE_BYTES {
            let bytes = rest.as_bytes();
            let cut = (PIECE_BYTES..rest.len() - 1).find(|&i| {
                bytes[i] == b' ' && bytes[i - 1].is_ascii_alphabetic() && bytes[i + 1].is_ascii_alphabetic()
            });
            end = cut.unwrap_or(rest.len());
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// The bytes of a token's printable spelling; characters outside it stand for themselves.
pub(super) fn bytes(token: &str) -> Vec<u8> {
    static BYTES: OnceLock<HashMap<char, u8>> = OnceLock::new();
    let map = BYTES.get_or_init(|| {
        // GPT-2's rule: printable Latin-1 stands for itself, the others follow from U+0100.
        let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 0x100;
        let spelling = |b: u8| {
            if printable(b) {
                char::from(b)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or('\u{fffd}')
            }
        };
        (0..=255).map(spelling).zip(0..=255).collect()
    });
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        match map.get(&c) {
            Some(b) => bytes.push(*b),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
