//! Runs a SentencePiece model in the same way as SentencePiece. The text is normalized. User-defined symbols stay
//! whole. The rest of the text is merged (BPE) or split (Unigram) into pieces (SentencePiece's word for tokens). Text
//! that no piece covers becomes byte pieces or one unknown piece.
//!
//! Source: SentencePiece's `normalizer.cc`, `bpe_model.cc`, `unigram_model.cc` and `sentencepiece_processor.cc`. Not
//! covered here: word models, character models and sampling.

use super::charsmap::Charsmap;
use super::protobuf::{ModelFile, PieceType};
use super::sentencepiece::{Remembered, SPACE, Scored};
use super::unigram::{Piece, Unigram};
use super::{Map, TokenizerError, added};
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::HashMap;

/// A SentencePiece model with its settings.
pub(super) struct Processor {
    model: Model,
    unknown: u32,
    /// Ids of the byte pieces `<0x00>` to `<0xFF>`, if unknown text becomes byte pieces.
    bytes: Option<Vec<u32>>,
    charsmap: Option<Charsmap>,
    /// Finds user-defined symbols in a text.
    symbols: Option<AhoCorasick>,
    /// True if a space is added before the text (or after it, see `suffix`).
    add_dummy_prefix: bool,
    /// True if spaces at both ends are removed, and repeated spaces become one space.
    remove_extra_whitespaces: bool,
    /// True if a space is spelled `▁`.
    escape_whitespaces: bool,
    /// True if the space of `add_dummy_prefix` is added after the text and not before it.
    suffix: bool,
    /// Added tokens of the folder. The SentencePiece model does not contain them.
    pub added: added::AddedTokens,
    /// True if the space of `add_dummy_prefix` is added to every stretch of text between added tokens, and not only to
    /// the beginning of the whole text.
    pub prefix_everywhere: bool,
}

/// The algorithm: BPE with scores or Unigram. `symbols` has the ids of user-defined symbols.
enum Model {
    Scored { model: Scored, symbols: HashMap<String, u32> },
    Unigram(Unigram),
}

impl Processor {
    pub fn new(
        file: &ModelFile,
        added: added::AddedTokens,
        prefix_everywhere: bool,
    ) -> Result<Self, TokenizerError> {
        let mut unknown = None;
        let mut ids: Map<String, u32> = Map::default();
        let mut bytes: Vec<Option<u32>> = vec![None; 256];
        for (id, piece) in (0..).zip(&file.pieces) {
            match piece.kind {
                PieceType::Unknown if unknown.is_some() => {
                    return Err(TokenizerError::key("pieces", "one unknown piece", "several"));
                }
                PieceType::Unknown => unknown = Some(id),
                PieceType::Control => {}
                PieceType::Byte => {
                    let byte = super::sentencepiece::byte(&piece.text);
                    let byte = byte.ok_or_else(|| {
                        TokenizerError::key("pieces", "a byte such as <0x41>", format!("{:?}", piece.text))
                    })?;
                    bytes[usize::from(byte)] = Some(id);
                }
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => {
                    if piece.text.is_empty() || ids.insert(piece.text.clone(), id).is_some() {
                        let found = format!("{:?} (id {id})", piece.text);
                        return Err(TokenizerError::key("pieces", "texts, each once", found));
                    }
                }
            }
        }
        let unknown = unknown.ok_or_else(|| TokenizerError::key("pieces", "an unknown piece", "none"))?;
        let all: Option<Vec<u32>> = bytes.into_iter().collect();
        let bytes = match (file.byte_fallback, all) {
            (false, _) => None,
            (true, Some(all)) => Some(all),
            (true, None) => return Err(TokenizerError::key("pieces", "256 byte pieces", "fewer")),
        };
        let own: Vec<&str> = file
            .pieces
            .iter()
            .filter(|p| p.kind == PieceType::UserDefined)
            .map(|p| p.text.as_str())
            .collect();
        let symbols = match own.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(&own)
                    .map_err(|e| TokenizerError::Library(e.to_string()))?,
            ),
        };
        let model = match file.model_type {
            1 => {
                let pieces = (0..)
                    .zip(&file.pieces)
                    .filter(|(_, p)| matches!(p.kind, PieceType::Normal | PieceType::UserDefined));
                let pieces = pieces.map(|(id, p)| Piece {
                    text: p.text.clone(),
                    id,
                    score: f64::from(p.score),
                    user_defined: p.kind == PieceType::UserDefined,
                });
                Model::Unigram(Unigram::new(pieces.collect()))
            }
            2 => {
                let scores = file.pieces.iter().map(|p| p.score).collect();
                let unused = file.pieces.iter().map(|p| p.kind == PieceType::Unused).collect();
                let symbols = own.iter().map(|text| ((*text).to_owned(), ids[*text])).collect();
                Model::Scored { model: Scored::new(ids, scores, unused), symbols }
            }
            other => {
                let found = match other {
                    3 => "WORD".to_owned(),
                    4 => "CHAR".to_owned(),
                    other => other.to_string(),
                };
                return Err(TokenizerError::key("trainer_spec.model_type", "UNIGRAM or BPE", found));
            }
        };
        let charsmap = match file.charsmap.is_empty() {
            true => None,
            false => Some(Charsmap::new(&file.charsmap).ok_or_else(|| {
                TokenizerError::key(
                    "normalizer_spec.precompiled_charsmap",
                    "compiled rules",
                    "something else",
                )
            })?),
        };
        Ok(Self {
            model,
            unknown,
            bytes,
            charsmap,
            symbols,
            add_dummy_prefix: file.add_dummy_prefix,
            remove_extra_whitespaces: file.remove_extra_whitespaces,
            escape_whitespaces: file.escape_whitespaces,
            suffix: file.suffix,
            added,
            prefix_everywhere,
        })
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    pub fn encode(&self, text: &str, open: &added::Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut remembered = Remembered::default();
        let mut end = 0;
        for (place, id) in self.added.find(text, open)? {
            if place.start > end {
                self.stretch(&text[end..place.start], end == 0, &mut remembered, ids);
            }
            ids.push(id);
            end = place.end;
        }
        if end < text.len() {
            self.stretch(&text[end..], end == 0, &mut remembered, ids);
        }
        Ok(())
    }

    /// Encodes a stretch of text between two added tokens.
    fn stretch(&self, text: &str, at_start: bool, remembered: &mut Remembered, ids: &mut Vec<u32>) {
        let text = self.normalize(text, self.add_dummy_prefix && (at_start || self.prefix_everywhere));
        let mut after_unknown = false;
        let mut take = |part: &str, id: Option<u32>| {
            match (id, &self.bytes) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => ids.extend(part.bytes().map(|b| bytes[usize::from(b)])),
                // Neighbouring unknown parts become one.
                (None, None) if after_unknown => {}
                (None, None) => ids.push(self.unknown),
            }
            after_unknown = id.is_none() && self.bytes.is_none();
        };
        match &self.model {
            Model::Unigram(model) => model.encode(&text, &mut take),
            Model::Scored { model, symbols } => {
                let mut end = 0;
                for found in self.symbols.iter().flat_map(|automaton| automaton.find_iter(&text)) {
                    model.encode(&text[end..found.start()], remembered, &mut take);
                    let symbol = &text[found.range()];
                    take(symbol, symbols.get(symbol).copied());
                    end = found.end();
                }
                model.encode(&text[end..], remembered, &mut take);
            }
        }
    }

    /// One step of the normalization. Returns the length in bytes of the text that is read at the beginning of `text`,
    /// and the text that replaces it. `symbol` is the range of a user-defined symbol at this place, which is not
    /// replaced.
    fn first<'a>(&'a self, text: &'a str, symbol: Option<std::ops::Range<usize>>) -> (usize, &'a str) {
        if let Some(symbol) = symbol {
            return (symbol.len(), &text[..symbol.len()]);
        }
        if let Some((length, new)) = self.charsmap.as_ref().and_then(|map| map.longest(text.as_bytes()))
            && text.is_char_boundary(length)
        {
            return (length, new);
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (length, &text[..length])
    }

    /// Normalizes a text. `dummy` says whether a space is added.
    fn normalize(&self, text: &str, dummy: bool) -> String {
        let space = if self.escape_whitespaces { SPACE } else { " " };
        let mut symbols = self.symbols.iter().flat_map(|automaton| automaton.find_iter(text)).peekable();
        let mut at = 0;
        let mut step = |at: usize| {
            while symbols.next_if(|found| found.start() < at).is_some() {}
            let symbol = symbols.peek().filter(|found| found.start() == at).map(|found| found.range());
            self.first(&text[at..], symbol)
        };
        let mut normalized = String::with_capacity(text.len() + text.len() / 4 + space.len());
        if self.remove_extra_whitespaces {
            while at < text.len() {
                let (length, new) = step(at);
                if new != " " {
                    break;
                }
                at += length;
            }
            if at == text.len() {
                return normalized;
            }
        }
        if dummy && !self.suffix {
            normalized.push_str(space);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while at < text.len() {
            let (length, mut new) = step(at);
            if after_space {
                new = new.trim_start_matches(' ');
            }
            if !new.is_empty() {
                for (index, part) in new.split(' ').enumerate() {
                    if index > 0 {
                        normalized.push_str(space);
                    }
                    normalized.push_str(part);
                }
                after_space = new.ends_with(' ') && self.remove_extra_whitespaces;
            }
            at += length;
        }
        if self.remove_extra_whitespaces {
            normalized.truncate(normalized.trim_end_matches(space).len());
        }
        if dummy && self.suffix {
            normalized.push_str(space);
        }
        normalized
    }
}
