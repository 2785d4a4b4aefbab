//! Runs the steps of a `tokenizer.json`: added tokens, normalizer, pre-tokenizer and model. All types of the
//! `tokenizers` crate are supported.
//!
//! The ids are the same as those of the `tokenizers` crate ("the library"). Normalizers and pre-tokenizers are the
//! library's code, with two exceptions. Regular expressions run here, because the library ignores the rest of a text if
//! its regex engine fails. Frequent expressions have hand-written code (`words`). Models are written here (`model`),
//! because the library allocates a string for every token. Most tokenizers use only words of bytes, or `▁` for spaces.
//! For these there is a fast variant without the library's strings, which store two numbers for every byte.

use super::added::{Added, AddedTokens, Open};
use super::byte_pair::{Remembered, remember};
use super::cut::{Cut, cut_all};
use super::json::{self, kind};
use super::model::Model;
use super::steps::{Normalizer, Split, pattern};
use super::words::Words;
use super::{TokenizerError, sentencepiece};
use serde_json::Value as Json;
use std::borrow::Cow;
use tokenizers::normalizer::Range as Part;
use tokenizers::{NormalizedString, OffsetReferential, OffsetType, PreTokenizedString};

/// Converts text to ids.
pub(super) struct Pipeline {
    /// Added tokens that are searched in the original text.
    first: AddedTokens,
    /// Added tokens that are searched in the normalized text.
    second: AddedTokens,
    normalizers: Vec<Normalizer>,
    splits: Vec<Split>,
    /// The fast variant, if there is one for these steps.
    fast: Option<Fast>,
    model: Model,
}

/// The fast variants, without the library's strings.
enum Fast {
    /// Words of bytes. The rules in `cuts` split the text one after another. If `space` is true, a space is first added
    /// before a text that does not begin with one.
    Words { cuts: Vec<Cut>, space: bool },
    /// `▁` replaces every space and is added before the text, see [`Prefix`].
    Marks {
        prefix: Prefix,
        /// True if the text is split before every `▁`.
        split: bool,
        /// True if the text is first split at white space, so that `▁` is added before each part.
        at_spaces: bool,
        /// True if the normalizers run first. Otherwise they are those that write `▁`.
        normalizes: bool,
    },
    /// BERT's normalizer and pre-tokenizer. They change every character alone, and white space is no word. So the text
    /// is cut at white space first, and the ids of each piece are cached.
    Spaces,
}

/// Where `▁` is added before text. A stretch of text is the text between two added tokens.
#[derive(Clone, Copy, PartialEq)]
enum Prefix {
    Never,
    /// Before the beginning of the whole text, if the text does not begin with `▁`.
    First,
    /// Before every stretch of text that does not begin with `▁`.
    Always,
    /// Before every stretch of text, even if it begins with `▁`.
    Twice,
}

/// An added token. If `normalized` is true, it is searched in the normalized text, else in the original text.
pub(super) struct Entry {
    pub token: Added,
    pub normalized: bool,
}

impl Fast {
    /// The fast variant for these steps; `None` if there is no fast variant.
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
            ([normalizer], [step])
                if kind(normalizer) == "BertNormalizer" && kind(step) == "BertPreTokenizer" =>
            {
                Some(Self::Spaces)
            }
            ([space], []) if marks(space) => Some(Self::written_marks(Prefix::Never)),
            ([before, space], []) if prepends(before) && marks(space) => {
                Some(Self::written_marks(Prefix::Twice))
            }
            (_, [step]) => Self::marks(normalizers, step, false),
            (_, [spaces, step]) if kind(spaces) == "WhitespaceSplit" => Self::marks(normalizers, step, true),
            _ => None,
        })
    }

    /// The variant for normalizers that write `▁`.
    fn written_marks(prefix: Prefix) -> Self {
        Self::Marks { prefix, split: false, at_spaces: false, normalizes: false }
    }

    /// The fast variant for the step `Metaspace` after any normalizers; `None` for other steps. If `at_spaces` is true, the
    /// text is first split at white space.
    fn marks(normalizers: &[Json], step: &Json, at_spaces: bool) -> Option<Self> {
        if kind(step) != "Metaspace"
            || step["replacement"].as_str() != Some(sentencepiece::SPACE)
            || step.get("add_prefix_space").is_some_and(|a| a.as_bool() != Some(true))
        {
            return None;
        }
        let prefix = match step["prepend_scheme"].as_str() {
            Some("never") => Prefix::Never,
            // A normalizer can remove the beginning of the text. Only the library's strings know that.
            Some("first") if at_spaces || !normalizers.is_empty() => return None,
            Some("first") => Prefix::First,
            _ => Prefix::Always,
        };
        let split = step["split"].as_bool().unwrap_or(true);
        Some(Self::Marks { prefix, split, at_spaces, normalizes: !normalizers.is_empty() })
    }

    /// The fast variant for words of bytes; `None` if a step has no fast variant.
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
                        cuts.push(Cut::Words(Words::GPT2));
                    }
                }
                "Digits" if json["individual_digits"].as_bool() == Some(true) => {
                    cuts.push(Cut::expression(r"\p{N}")?);
                }
                "Split" if json["behavior"].as_str() == Some("Isolated") => cuts.push(pattern(json)?),
                _ => return Ok(None),
            }
        }
        Ok(Some(Self::Words { cuts, space }))
    }
}

impl Pipeline {
    /// True if the words of these steps are words of bytes. The model does not need the printable spelling of such
    /// words.
    pub fn of_bytes(file: &json::File) -> bool {
        let steps = json::steps(&file.pre_tokenizer.0, "pretokenizers");
        steps.last().is_some_and(|s| kind(s) == "ByteLevel")
            && json::steps(&file.normalizer.0, "normalizers").iter().all(|n| kind(n) != "ByteLevel")
    }

    /// Makes the pipeline from the steps of a file, its added tokens (`entries`) and its model.
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
            Split::add(json, of_bytes && index + 1 == steps.len(), &mut splits)?;
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
        // A normalizer writes `▁` before the search for the tokens of `second`, but the fast variant writes `▁` after
        // this search. So the fast variant is not used if both exist.
        let fast = fast
            .filter(|way| second.is_empty() || matches!(way, Fast::Words { .. }) || normalizer.is_empty());
        // The cache has the ids of words for other models.
        let fast = fast.filter(|way| !matches!(way, Fast::Spaces) || matches!(model, Model::WordPiece(_)));
        Ok(Self {
            first: AddedTokens::leftmost(first)?,
            second: AddedTokens::leftmost(second)?,
            normalizers,
            splits,
            fast,
            model,
        })
    }

    /// Appends the ids of a text to `ids`. Control tokens are found only inside the ranges of `open`.
    pub fn encode(&self, text: &str, open: &Open, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let remembered = &mut Remembered::default();
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

    /// Encodes the stretch `range` of the text `whole`, which is between two tokens of `first`. Normalizes the stretch
    /// and separates the tokens of `second` from it.
    fn stretch(
        &self,
        whole: &str,
        range: std::ops::Range<usize>,
        open: &Open,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let text = &whole[range.clone()];
        if matches!(self.fast, Some(Fast::Spaces)) {
            return self.pieces(text, remembered, ids);
        }
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

    /// Returns the normalized text, without the original positions of its parts.
    fn normalized<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, TokenizerError> {
        if let Some(Fast::Marks { normalizes: false, .. }) = self.fast {
            return Ok(text.into());
        }
        self.normalizers.iter().try_fold(text.into(), |text, normalizer| normalizer.normalized(text))
    }

    /// Encodes normalized text without added tokens. `at_start` says whether it is at the beginning of the whole text.
    fn plain(
        &self,
        text: &str,
        at_start: bool,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match &self.fast {
            None | Some(Fast::Spaces) => self.words(text.into(), at_start, remembered, ids),
            Some(Fast::Words { cuts, space }) => {
                let text = match *space && !text.starts_with(' ') {
                    true => format!(" {text}").into(),
                    false => Cow::Borrowed(text),
                };
                cut_all(cuts, &text, &mut |word| self.model.encode(word, remembered, ids))
            }
            Some(Fast::Marks { prefix, split, at_spaces, .. }) => {
                let mut encode = |text: &str| self.marked(text, at_start, *prefix, *split, remembered, ids);
                if *at_spaces { text.split_whitespace().try_for_each(encode) } else { encode(text) }
            }
        }
    }

    /// Encodes a text with `▁` instead of spaces, see [`Fast::Marks`].
    fn marked(
        &self,
        text: &str,
        at_start: bool,
        prefix: Prefix,
        split: bool,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
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

    /// Encodes a text piece by piece, see [`Fast::Spaces`].
    fn pieces(
        &self,
        text: &str,
        remembered: &mut Remembered,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        for piece in text.split([' ', '\t', '\n', '\r']).filter(|piece| !piece.is_empty()) {
            if let Some(known) = remembered.get(piece) {
                ids.extend_from_slice(known);
                continue;
            }
            let before = ids.len();
            let mut normalized = NormalizedString::from(piece);
            for normalizer in &self.normalizers {
                normalizer.apply(&mut normalized)?;
            }
            if !normalized.get().is_empty() {
                self.words(normalized.into(), false, remembered, ids)?;
            }
            remember(remembered, piece, &ids[before..]);
        }
        Ok(())
    }

    /// Encodes text with the steps of the library.
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

    /// Removes the fast variant, so that tests can compare both variants.
    #[cfg(test)]
    pub fn without_short_ways(mut self) -> Self {
        self.fast = None;
        self
    }
}
