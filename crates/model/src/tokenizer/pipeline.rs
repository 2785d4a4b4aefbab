//! A `tokenizer.json` as it stands: added tokens, normalizer, pre-tokenizer, model – any of those that `tokenizers` has.
//!
//! The ids are the library's. Normalizers and pre-tokenizers are the library's own, two things apart: expressions run
//! here, because the library takes a text for finished where its engine gives up; and splits that kvant knows are made
//! by hand ([`PreTokenizer`]). Models are written here (`byte_pair`, `unigram`, `word_piece`): the library makes a string of
//! every token. What most models have (words of bytes, or `▁` for spaces) takes a way without the library's strings,
//! which carry two numbers a byte.

use super::added::{Added, AddedTokens, Open};
use super::byte_pair::{self, BytePair, Remembered};
use super::charsmap::Charsmap;
use super::json::{self, kind};
use super::unigram::{Piece, Unigram};
use super::word_piece::WordPiece;
use super::{PreTokenizer, TokenizerError, sentencepiece};
use fancy_regex::Regex;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::collections::HashMap;
use tokenizers::normalizer::Range as Part;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::{
    NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer as _, PreTokenizerWrapper, SplitDelimiterBehavior,
};

/// Bytes of the longest expression.
const LONGEST_EXPRESSION: usize = 1 << 16;

/// From text to ids.
pub(super) struct Pipeline {
    /// Looked for in the text as it is.
    first: AddedTokens,
    /// Looked for in the normalized text.
    second: AddedTokens,
    normalizers: Vec<Normalizer>,
    splits: Vec<Split>,
    fast: Option<Fast>,
    model: Model,
}

enum Normalizer {
    Library(NormalizerWrapper),
    Replace(Cut, String),
    Charsmap(Charsmap),
}

enum Split {
    Library(PreTokenizerWrapper),
    Cut {
        cut: Cut,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// A space before words of bytes that lack one.
    Space,
    /// For the text's beginning alone: this one; elsewhere without a mark before it.
    Metaspace {
        first: PreTokenizerWrapper,
        others: PreTokenizerWrapper,
    },
}

/// Where a text is cut.
enum Cut {
    Known(PreTokenizer),
    Expression(Regex),
}

/// The ways without the library.
enum Fast {
    /// Cut by each of these in turn, perhaps after a space.
    Words { cuts: Vec<Cut>, space: bool },
    /// `▁` for spaces and before the text, which is perhaps cut at each.
    Marks { prefix: Prefix, split: bool },
}

#[derive(Clone, Copy, PartialEq)]
enum Prefix {
    Never,
    /// Before the text's beginning, where there is none.
    First,
    /// Before every stretch of text that lacks one.
    Always,
    /// Before every stretch of text.
    Twice,
}

pub(super) enum Model {
    BytePair(Box<BytePair>),
    Unigram { model: Unigram, unknown: Option<u32>, bytes: Option<Vec<Option<u32>>> },
    WordPiece(WordPiece),
}

/// What an added token is looked for in, and what it is.
pub(super) struct Entry {
    pub token: Added,
    pub normalized: bool,
}

impl Cut {
    fn expression(source: &str) -> Result<Self, TokenizerError> {
        if source.len() > LONGEST_EXPRESSION {
            let found = format!("{} bytes", source.len());
            return Err(TokenizerError::key("pattern", "an expression of at most 64 KiB", found));
        }
        Regex::new(source)
            .map(Self::Expression)
            .map_err(|e| TokenizerError::key("pattern", "a regular expression", e.to_string()))
    }

    /// The `pattern` of a step.
    fn pattern(step: &Json) -> Result<Self, TokenizerError> {
        let pattern = &step["pattern"];
        if let Some(expression) = pattern["Regex"].as_str() {
            return match PreTokenizer::by_expression(expression) {
                Some(known) => Ok(Self::Known(known)),
                None => Self::expression(expression),
            };
        }
        let text = pattern["String"].as_str();
        let text =
            text.ok_or_else(|| TokenizerError::key("pattern", "String or Regex", pattern.to_string()))?;
        Self::expression(&fancy_regex::escape(text))
    }

    /// Hands over the parts, in order, and whether each is a match.
    fn parts<'a>(
        &self,
        text: &'a str,
        take: &mut dyn FnMut(&'a str, bool) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        match self {
            Self::Known(known) => {
                let mut result = Ok(());
                known.words(text, &mut |word| {
                    if result.is_ok() {
                        result = take(word, true);
                    }
                });
                result
            }
            Self::Expression(expression) => {
                let mut end = 0;
                for found in expression.find_iter(text) {
                    let found = found.map_err(|e| gave_up(&e))?;
                    if found.start() > end {
                        take(&text[end..found.start()], false)?;
                    }
                    take(&text[found.start()..found.end()], true)?;
                    end = found.end();
                }
                if end < text.len() {
                    take(&text[end..], false)?;
                }
                Ok(())
            }
        }
    }
}

fn gave_up(error: &fancy_regex::Error) -> TokenizerError {
    TokenizerError::Library(format!(
        "the expression of the pre-tokenizer or normalizer gives up on this text ({error}); split the text"
    ))
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

fn library(error: tokenizers::Error) -> TokenizerError {
    match error.downcast::<TokenizerError>() {
        Ok(own) => *own,
        Err(error) => TokenizerError::Library(error.to_string()),
    }
}

fn step<T: serde::de::DeserializeOwned>(step: &Json, key: &str) -> Result<T, TokenizerError> {
    serde_json::from_value(step.clone()).map_err(|e| {
        TokenizerError::key(format!("{key} {}", kind(step)), "one that `tokenizers` has", e.to_string())
    })
}

impl Normalizer {
    fn new(json: &Json) -> Result<Self, TokenizerError> {
        match kind(json) {
            "Replace" => {
                let content = json["content"].as_str().unwrap_or_default().to_owned();
                Ok(Self::Replace(Cut::pattern(json)?, content))
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

    fn apply(&self, text: &mut NormalizedString) -> Result<(), TokenizerError> {
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

impl Split {
    /// Steps of the library's; the last one of words of bytes leaves their spelling to the model.
    fn new(json: &Json, of_bytes: bool, all: &mut Vec<Self>) -> Result<(), TokenizerError> {
        let isolated = |cut| Self::Cut { cut, behavior: SplitDelimiterBehavior::Isolated, invert: false };
        match kind(json) {
            "Split" => {
                let behavior = step(&serde_json::json!(json["behavior"]), "behavior")?;
                let invert = json["invert"].as_bool().unwrap_or(false);
                all.push(Self::Cut { cut: Cut::pattern(json)?, behavior, invert });
            }
            "ByteLevel" => {
                if json["add_prefix_space"].as_bool().unwrap_or(true) {
                    all.push(Self::Space);
                }
                if json["use_regex"].as_bool().unwrap_or(true) {
                    all.push(isolated(Cut::Known(PreTokenizer::Gpt2)));
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

    fn apply(&self, text: &mut PreTokenizedString, at_start: bool) -> Result<(), TokenizerError> {
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

impl Fast {
    /// The way that the steps come to, if there is one.
    fn new(normalizers: &[Json], steps: &[Json], of_bytes: bool) -> Result<Option<Self>, TokenizerError> {
        if of_bytes {
            return Self::words(steps);
        }
        let marks = |json: &Json| {
            kind(json) == "Replace"
                && json["pattern"]["String"].as_str() == Some(" ")
                && json["content"].as_str() == Some(sentencepiece::SPACE)
        };
        let prepends =
            |json: &Json| kind(json) == "Prepend" && json["prepend"].as_str() == Some(sentencepiece::SPACE);
        Ok(match (normalizers, steps) {
            ([space], []) if marks(space) => Some(Self::Marks { prefix: Prefix::Never, split: false }),
            ([before, space], []) if prepends(before) && marks(space) => {
                Some(Self::Marks { prefix: Prefix::Twice, split: false })
            }
            ([], [step])
                if kind(step) == "Metaspace"
                    && step["replacement"].as_str() == Some(sentencepiece::SPACE)
                    && step.get("add_prefix_space").is_none_or(|a| a.as_bool() == Some(true)) =>
            {
                let prefix = match step["prepend_scheme"].as_str() {
                    Some("never") => Prefix::Never,
                    Some("first") => Prefix::First,
                    _ => Prefix::Always,
                };
                Some(Self::Marks { prefix, split: step["split"].as_bool().unwrap_or(true) })
            }
            _ => None,
        })
    }

    fn words(steps: &[Json]) -> Result<Option<Self>, TokenizerError> {
        let (mut cuts, mut space) = (Vec::new(), false);
        for (index, json) in steps.iter().enumerate() {
            match kind(json) {
                "ByteLevel" => {
                    let adds = json["add_prefix_space"].as_bool().unwrap_or(true);
                    if adds && index > 0 {
                        return Ok(None);
                    }
                    space |= adds;
                    if json["use_regex"].as_bool().unwrap_or(true) {
                        cuts.push(Cut::Known(PreTokenizer::Gpt2));
                    }
                }
                "Digits" if json["individual_digits"].as_bool() == Some(true) => {
                    cuts.push(Cut::expression(r"\p{N}")?);
                }
                "Split" if json["behavior"].as_str() == Some("Isolated") => cuts.push(Cut::pattern(json)?),
                _ => return Ok(None),
            }
        }
        // Digits one by one and then GPT-2's words are one known split.
        if let [Cut::Expression(digits), Cut::Known(PreTokenizer::Gpt2)] = &cuts[..]
            && digits.as_str() == r"\p{N}"
        {
            cuts = vec![Cut::Known(PreTokenizer::Smollm)];
        }
        Ok(Some(Self::Words { cuts, space }))
    }
}

impl Pipeline {
    /// Whether the words of these steps are bytes, whose spelling the model can do without.
    pub fn of_bytes(file: &json::File) -> bool {
        let steps = json::steps(&file.pre_tokenizer.0, "pretokenizers");
        steps.last().is_some_and(|s| kind(s) == "ByteLevel")
            && json::steps(&file.normalizer.0, "normalizers").iter().all(|n| kind(n) != "ByteLevel")
    }

    /// The steps of a file before `model`.
    pub fn new(
        normalizer: &Json,
        pre_tokenizer: &Json,
        of_bytes: bool,
        entries: Vec<Entry>,
        model: Model,
    ) -> Result<Self, TokenizerError> {
        let normalizer = json::steps(normalizer, "normalizers");
        let steps = json::steps(pre_tokenizer, "pretokenizers");
        let normalizers = normalizer.iter().map(Normalizer::new).collect::<Result<Vec<_>, _>>()?;
        let mut splits = Vec::new();
        for (index, json) in steps.iter().enumerate() {
            Split::new(json, of_bytes && index + 1 == steps.len(), &mut splits)?;
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for Entry { mut token, normalized } in entries {
            if normalized && !normalizers.is_empty() {
                let mut text = NormalizedString::from(token.text.as_str());
                for normalizer in &normalizers {
                    normalizer.apply(&mut text)?;
                }
                token.text = text.get().to_owned();
            }
            if normalized { second.push(token) } else { first.push(token) }
        }
        let fast = Fast::new(&normalizer, &steps, of_bytes)?;
        // Marks that a normalizer writes are there before tokens are looked for; by hand they come after.
        let fast = fast
            .filter(|way| second.is_empty() || matches!(way, Fast::Words { .. }) || normalizer.is_empty());
        Ok(Self {
            first: AddedTokens::leftmost(first)?,
            second: AddedTokens::leftmost(second)?,
            normalizers,
            splits,
            fast,
            model,
        })
    }

    /// Ids of a text; control tokens are found in its open places alone.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let remembered = &mut Remembered::new();
        let mut end = 0;
        for (place, id) in self.first.find(text, open)? {
            if place.start > end {
                self.stretch(text, end..place.start, open, remembered, ids)?;
            }
            ids.push(id);
            end = place.end;
        }
        if end < text.len() {
            self.stretch(text, end..text.len(), open, remembered, ids)?;
        }
        Ok(())
    }

    /// Text between tokens of the first kind: normalized, and parted at tokens of the second kind.
    fn stretch(
        &self,
        whole: &str,
        range: std::ops::Range<usize>,
        open: &Open,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let text = &whole[range.clone()];
        let inside = open.iter().filter(|o| o.start < range.end && o.end > range.start);
        let inside =
            inside.map(|o| o.start.max(range.start) - range.start..o.end.min(range.end) - range.start);
        let at_start = range.start == 0;
        if self.normalizers.is_empty() || self.second.is_empty() && self.fast.is_some() {
            let text = self.normalized(text)?;
            let open: Vec<_> = inside.collect();
            let mut end = 0;
            for (place, id) in self.second.find(&text, &open)? {
                if place.start > end {
                    self.plain(&text[end..place.start], at_start && end == 0, remembered, ids)?;
                }
                ids.push(id);
                end = place.end;
            }
            if end < text.len() {
                self.plain(&text[end..], at_start && end == 0, remembered, ids)?;
            }
            return Ok(());
        }
        let mut text = NormalizedString::from(text);
        for normalizer in &self.normalizers {
            normalizer.apply(&mut text)?;
        }
        let open: Vec<_> = inside.filter_map(|o| text.convert_offsets(Part::Original(o))).collect();
        let mut end = 0;
        let mut part =
            |from: usize, to: usize, ids: &mut Vec<u32>| match text.slice(Part::Normalized(from..to)) {
                Some(part) => {
                    let at_start = at_start && part.offsets_original().0 == 0;
                    self.words(part.into(), at_start, remembered, ids)
                }
                None => Ok(()),
            };
        for (place, id) in self.second.find(text.get(), &open)? {
            if place.start > end {
                part(end, place.start, ids)?;
            }
            ids.push(id);
            end = place.end;
        }
        if end < text.get().len() {
            part(end, text.get().len(), ids)?;
        }
        Ok(())
    }

    /// The normalized text, where nothing asks for the places that its parts came from.
    fn normalized<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, TokenizerError> {
        let composes = |n: &Normalizer| matches!(n, Normalizer::Library(NormalizerWrapper::NFC(_)));
        let by_hand = matches!(self.fast, Some(Fast::Marks { .. }));
        if by_hand || self.normalizers.iter().all(composes) && text.chars().all(is_composed) {
            return Ok(text.into());
        }
        let mut text = NormalizedString::from(text);
        for normalizer in &self.normalizers {
            normalizer.apply(&mut text)?;
        }
        Ok(text.get().to_owned().into())
    }

    /// Normalized text without added tokens.
    fn plain(
        &self,
        text: &str,
        at_start: bool,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match &self.fast {
            None => self.words(text.into(), at_start, remembered, ids),
            Some(Fast::Words { cuts, space }) => {
                let text = match *space && !text.starts_with(' ') {
                    true => format!(" {text}").into(),
                    false => Cow::Borrowed(text),
                };
                cut(cuts, &text, &mut |word| self.model.encode(word, remembered, ids))
            }
            Some(Fast::Marks { prefix, split }) => {
                let marked = text.replace(' ', sentencepiece::SPACE);
                let lacks = !marked.starts_with(sentencepiece::SPACE);
                let before = match prefix {
                    Prefix::Never => false,
                    Prefix::First => lacks && at_start,
                    Prefix::Always => lacks,
                    Prefix::Twice => true,
                };
                let text = if before { format!("{}{marked}", sentencepiece::SPACE) } else { marked };
                if !split {
                    return self.model.encode(&text, remembered, ids);
                }
                let mut rest = text.as_str();
                while let Some(first) = rest.chars().next() {
                    let next = rest[first.len_utf8()..].find(sentencepiece::SPACE);
                    let (word, after) = rest.split_at(next.map_or(rest.len(), |at| first.len_utf8() + at));
                    self.model.encode(word, remembered, ids)?;
                    rest = after;
                }
                Ok(())
            }
        }
    }

    /// The library's way.
    fn words(
        &self,
        mut text: PreTokenizedString,
        at_start: bool,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        for split in &self.splits {
            split.apply(&mut text, at_start)?;
        }
        for (word, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            self.model.encode(word, remembered, ids)?;
        }
        Ok(())
    }

    /// The same without the ways by hand, for tests.
    #[cfg(test)]
    pub fn without_short_ways(mut self) -> Self {
        self.fast = None;
        self
    }
}

/// Cuts a text by each of these in turn.
fn cut<'a>(
    cuts: &[Cut],
    text: &'a str,
    take: &mut dyn FnMut(&'a str) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    match cuts.split_first() {
        None => take(text),
        Some((first, others)) => first.parts(text, &mut |part, _| cut(others, part, take)),
    }
}

impl Model {
    fn encode(
        &self,
        word: &str,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match self {
            Self::BytePair(model) => model.encode(word, remembered, ids),
            Self::WordPiece(model) => model.encode(word, ids)?,
            Self::Unigram { model, unknown, bytes } => {
                let mut unfinished: Option<(usize, usize)> = None;
                let flush = |part: &str, ids: &mut Vec<u32>| {
                    let fallback: Option<Vec<u32>> = bytes
                        .as_ref()
                        .and_then(|bytes| part.bytes().map(|b| bytes[usize::from(b)]).collect());
                    match (fallback, unknown) {
                        (Some(bytes), _) => ids.extend(bytes),
                        (None, Some(unknown)) => ids.push(*unknown),
                        (None, None) => {
                            return Err(TokenizerError::key("unk_id", "an id", "none, which the text needs"));
                        }
                    }
                    Ok(())
                };
                let mut result = Ok(());
                let mut at = 0;
                model.encode(word, &mut |part, id| {
                    let end = at + part.len();
                    match id.filter(|id| Some(*id) != *unknown) {
                        // Neighbours that are unknown are one.
                        None => unfinished = Some((unfinished.map_or(at, |(start, _)| start), end)),
                        Some(id) => {
                            if let Some((start, end)) = unfinished.take()
                                && let Err(error) = flush(&word[start..end], ids)
                            {
                                result = Err(error);
                            }
                            ids.push(id);
                        }
                    }
                    at = end;
                });
                result?;
                if let Some((start, end)) = unfinished {
                    flush(&word[start..end], ids)?;
                }
            }
        }
        Ok(())
    }

    /// The model of a file, of the types that `tokenizers` has.
    pub fn new(model: &json::Model, of_bytes: bool) -> Result<Self, TokenizerError> {
        let ids = || match &model.vocab {
            Some(json::Vocab::Ids(all)) => {
                let small = |(token, id): &(String, u64)| {
                    let id = u32::try_from(*id).ok().filter(|id| *id < super::LARGEST_ID);
                    id.map(|id| (token.clone(), id)).ok_or_else(|| {
                        TokenizerError::key("model.vocab", "ids below 2^22", format!("{token:?}"))
                    })
                };
                all.iter().map(small).collect::<Result<Vec<(String, u32)>, _>>()
            }
            _ => Err(TokenizerError::key("model.vocab", "an object token → id", "something else")),
        };
        let prefix = model.continuing_subword_prefix.clone();
        match type_of(model) {
            "BPE" => {
                if model.dropout.is_some_and(|p| p != 0.0) {
                    return Err(TokenizerError::key("model.dropout", "none", "some; its ids are random"));
                }
                let merges = model.merges.iter().flatten().map(|m| (m.0.clone(), m.1.clone())).collect();
                Ok(Self::BytePair(Box::new(BytePair::new(byte_pair::Settings {
                    vocabulary: ids()?,
                    merges,
                    first_counts: false,
                    of_bytes,
                    ignore_merges: model.ignore_merges.unwrap_or(false),
                    byte_fallback: model.byte_fallback.unwrap_or(false),
                    unknown: model.unk_token.clone(),
                    fuse_unknown: model.fuse_unk.unwrap_or(false),
                    prefix: prefix.unwrap_or_default(),
                    suffix: model.end_of_word_suffix.clone().unwrap_or_default(),
                })?)))
            }
            "WordPiece" => WordPiece::new(
                ids()?,
                model.unk_token.as_deref().unwrap_or("[UNK]"),
                prefix.unwrap_or_else(|| "##".into()),
                model.max_input_chars_per_word.unwrap_or(100),
            )
            .map(Self::WordPiece),
            "WordLevel" => {
                WordPiece::whole(ids()?, model.unk_token.as_deref().unwrap_or("<unk>")).map(Self::WordPiece)
            }
            "Unigram" => {
                let Some(json::Vocab::Scores(all)) = &model.vocab else {
                    return Err(TokenizerError::key(
                        "model.vocab",
                        "a list of tokens and scores",
                        "something else",
                    ));
                };
                let pieces: Vec<Piece> = all
                    .iter()
                    .zip(0..)
                    .map(|((text, score), id)| Piece {
                        text: text.clone(),
                        id,
                        score: *score,
                        user_defined: false,
                    })
                    .collect();
                let unknown = match model.unk_id {
                    None => None,
                    Some(id) if id < all.len() as u64 => Some(id as u32),
                    Some(id) => {
                        return Err(TokenizerError::key(
                            "model.unk_id",
                            "an id of the vocabulary",
                            id.to_string(),
                        ));
                    }
                };
                let bytes = model.byte_fallback.unwrap_or(false).then(|| {
                    let by_text: HashMap<&str, u32> =
                        pieces.iter().map(|p| (p.text.as_str(), p.id)).collect();
                    (0..256).map(|b| by_text.get(format!("<0x{b:02X}>").as_str()).copied()).collect()
                });
                Ok(Self::Unigram { model: Unigram::new(pieces, false), unknown, bytes })
            }
            other => Err(TokenizerError::key("model.type", "BPE, Unigram, WordPiece or WordLevel", other)),
        }
    }
}

/// The type of a model; files written before the key existed have it by their fields.
pub(super) fn type_of(model: &json::Model) -> &str {
    match (model.kind.as_deref(), &model.vocab) {
        (Some(kind), _) => kind,
        (None, Some(json::Vocab::Scores(_))) => "Unigram",
        (None, _) if model.merges.is_some() => "BPE",
        (None, _) if model.continuing_subword_prefix.is_some() => "WordPiece",
        (None, _) => "WordLevel",
    }
}

/// Whether a character is composed already, whatever stands around it.
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

/// Bytes of a text in base64.
fn base64(text: &str) -> Option<Vec<u8>> {
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
