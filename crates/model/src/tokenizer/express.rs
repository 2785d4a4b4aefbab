//! Expresses a folder's tokenizer in the terms of GGUF, and makes notes on settings that GGUF cannot express.

use super::json::{self, AddedToken};
use super::model::type_of;
use super::{Kind, PreTokenizer, TokenKind, Vocabulary, expressions, sentencepiece, steps, words};
use serde_json::Value as Json;
use std::collections::HashMap;

/// Notes on settings of added tokens that GGUF cannot express.
pub(super) fn added_notes(added: &[(AddedToken, u32)]) -> Vec<String> {
    let named = |what: &str, has: &dyn Fn(&AddedToken) -> bool| {
        let mut texts: Vec<&str> =
            added.iter().filter(|(t, _)| has(t)).map(|(t, _)| t.content.as_str()).collect();
        texts.dedup();
        let more = if texts.len() > 4 { format!(" and {} more", texts.len() - 4) } else { String::new() };
        texts.truncate(4);
        let first: Vec<String> = texts.iter().map(|t| format!("{t:?}")).collect();
        (!texts.is_empty()).then(|| {
            format!(
                "a GGUF does not say that {}{more} {what}; ids beside such tokens may differ",
                first.join(", ")
            )
        })
    };
    [
        named("take the white space before them (lstrip)", &|t| t.lstrip),
        named("take the white space behind them (rstrip)", &|t| t.rstrip),
        named("stand for whole words alone (single_word)", &|t| t.single_word),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A note if a space is added only before the whole text. A GGUF tokenizer also adds it after special tokens.
pub(super) fn metaspace_notes(pre_tokenizer: &Json) -> Option<String> {
    let steps = json::steps(pre_tokenizer, "pretokenizers");
    let first =
        steps.iter().any(|s| json::kind(s) == "Metaspace" && s["prepend_scheme"].as_str() == Some("first"));
    first.then(|| {
        "a GGUF puts a space before text behind every special token, this tokenizer before the text's beginning \
         alone (prepend_scheme: first); ids behind special tokens may differ"
            .to_owned()
    })
}

/// A note if `ignore_merges` in the file differs from the value that upstream derives from the name of the
/// pre-tokenizer.
pub(super) fn merges_notes(vocabulary: &Vocabulary) -> Option<String> {
    let Kind::BytePair { pre_tokenizer, ignore_merges, .. } = &vocabulary.kind else { return None };
    (*ignore_merges != pre_tokenizer.ignores_merges()).then(|| {
        format!(
            "the tokenizer says ignore_merges = {ignore_merges}; a GGUF says it by tokenizer.ggml.pre alone, and for \
             {:?} it is {}; ids of some words may differ",
            pre_tokenizer.name(),
            !ignore_merges
        )
    })
}

/// The GGUF kind of the vocabulary, for a model and its normalizer and pre-tokenizer.
pub(super) fn gguf_kind(
    model: &json::Model,
    normalizer: &Json,
    pre_tokenizer: &Json,
    tokens: &[String],
) -> Kind {
    match type_of(model) {
        "BPE" => {}
        "WordPiece" => return word_piece(model, normalizer, pre_tokenizer).unwrap_or_else(folder),
        "Unigram" => return unigram(model, normalizer, pre_tokenizer, tokens.len()).unwrap_or_else(folder),
        other => return folder(format!("its model is {other}")),
    }
    let merges: Vec<(String, String)> =
        model.merges.iter().flatten().map(|m| (m.0.clone(), m.1.clone())).collect();
    let affix = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return Kind::Folder { reason: "its tokens have a prefix or suffix for places in a word".into() };
    }
    if model.byte_fallback.unwrap_or(false) {
        return match marks(normalizer, pre_tokenizer) {
            Ok(add_space_prefix) => Kind::SentencePiece { scores: scores(tokens, &merges), add_space_prefix },
            Err(reason) => Kind::Folder { reason },
        };
    }
    let ignore_merges = model.ignore_merges.unwrap_or(false);
    match known_split(normalizer, pre_tokenizer, ignore_merges) {
        Ok(pre_tokenizer) => Kind::BytePair { merges, pre_tokenizer, ignore_merges },
        Err(reason) => Kind::Folder { reason },
    }
}

fn folder(reason: String) -> Kind {
    Kind::Folder { reason }
}

/// The kind of a WordPiece vocabulary with BERT's steps. The separator is not known here. Otherwise returns an error with
/// the reason.
fn word_piece(model: &json::Model, normalizer: &Json, pre_tokenizer: &Json) -> Result<Kind, String> {
    let normalizers = json::steps(normalizer, "normalizers");
    let [bert] = &normalizers[..] else { return Err("its normalizer is not BERT's".into()) };
    let is = |key: &str, default: bool| bert[key].as_bool().unwrap_or(default);
    if json::kind(bert) != "BertNormalizer" || !is("clean_text", true) || !is("handle_chinese_chars", true) {
        return Err("its normalizer is not BERT's".into());
    }
    let splits = json::steps(pre_tokenizer, "pretokenizers");
    if !matches!(&splits[..], [step] if json::kind(step) == "BertPreTokenizer") {
        return Err("its pre-tokenizer is not BERT's".into());
    }
    if model.continuing_subword_prefix.as_deref().is_some_and(|prefix| prefix != WORD_PIECE_PREFIX) {
        return Err("its tokens inside words have a prefix other than ##".into());
    }
    let lowercase = is("lowercase", true);
    Ok(Kind::WordPiece { lowercase, strip_accents: is("strip_accents", lowercase), separator: None })
}

/// The text before every token of a WordPiece folder that does not begin a word.
const WORD_PIECE_PREFIX: &str = "##";

/// Changes the tokens of a WordPiece folder to GGUF's spelling: tokens that begin a word begin with `▁`, and other tokens
/// have no prefix.
pub(super) fn respell_word_pieces(vocabulary: &mut Vocabulary) {
    for (token, kind) in vocabulary.tokens.iter_mut().zip(&vocabulary.kinds) {
        if *kind == TokenKind::Normal {
            *token = match token.strip_prefix(WORD_PIECE_PREFIX) {
                Some(rest) => rest.to_owned(),
                None => format!("{}{token}", sentencepiece::SPACE),
            };
        }
    }
}

/// The kind of a Unigram vocabulary of `count` tokens with SentencePiece's steps. Otherwise returns an error with the
/// reason.
fn unigram(
    model: &json::Model,
    normalizer: &Json,
    pre_tokenizer: &Json,
    count: usize,
) -> Result<Kind, String> {
    let Some(json::Vocab::Scores(scores)) = &model.vocab else {
        return Err("its tokens have no scores".into());
    };
    if model.byte_fallback.unwrap_or(false) {
        return Err("it spells unknown characters as bytes".into());
    }
    let (mut charsmap, mut add_space_prefix, mut remove_extra_whitespaces) = (Vec::new(), false, false);
    for (index, step) in json::steps(normalizer, "normalizers").iter().enumerate() {
        match json::kind(step) {
            "Precompiled" if index == 0 => {
                let decoded = step["precompiled_charsmap"].as_str().and_then(steps::base64);
                charsmap = decoded.ok_or("its rules of normalization are not base64")?;
            }
            "Replace" if step["pattern"]["Regex"].as_str() == Some(" {2,}") => {
                remove_extra_whitespaces = true
            }
            "Strip" => remove_extra_whitespaces = true,
            other => return Err(format!("its normalizer is {other}")),
        }
    }
    for step in json::steps(pre_tokenizer, "pretokenizers") {
        match json::kind(&step) {
            "WhitespaceSplit" => remove_extra_whitespaces = true,
            "Metaspace" => {
                let never = step["prepend_scheme"].as_str() == Some("never")
                    || step["add_prefix_space"].as_bool() == Some(false);
                add_space_prefix = !never;
            }
            other => return Err(format!("its pre-tokenizer is {other}")),
        }
    }
    let mut scores: Vec<f32> = scores.iter().map(|(_, score)| *score as f32).collect();
    // Added tokens are found by their text, not by a score.
    scores.resize(count, 0.0);
    Ok(Kind::Unigram { scores, charsmap, add_space_prefix, remove_extra_whitespaces })
}

/// True if the steps of a SentencePiece-like file put a space before text. Returns an error with the reason if a step
/// does something else.
fn marks(normalizer: &Json, pre_tokenizer: &Json) -> Result<bool, String> {
    let mut prepends = false;
    for step in json::steps(normalizer, "normalizers") {
        match json::kind(&step) {
            "Prepend" if step["prepend"].as_str() == Some(sentencepiece::SPACE) => prepends = true,
            "Replace" if step["content"].as_str() == Some(sentencepiece::SPACE) => {}
            other => return Err(format!("its normalizer is {other}")),
        }
    }
    for step in json::steps(pre_tokenizer, "pretokenizers") {
        match json::kind(&step) {
            "Metaspace" => {
                let never = step["prepend_scheme"].as_str() == Some("never")
                    || step["add_prefix_space"].as_bool() == Some(false);
                prepends |= !never;
            }
            // A split at spaces does not change the ids, because no merge crosses a space.
            "Split" if step["pattern"]["String"].as_str() == Some(" ") => {}
            other => return Err(format!("its pre-tokenizer is {other}")),
        }
    }
    Ok(prepends)
}

/// Scores with which merging by score does the same merges as merging by rank. The score of a token is the best rank of
/// a merge that makes this token, negated. A token that no merge makes gets a score below all others.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (i, (left, right)) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}")).or_insert(i);
    }
    tokens.iter().map(|t| rank.get(t).map_or(-1e6, |r| -(*r as f32))).collect()
}

/// The pre-tokenizer rule that has a name in GGUF and matches the steps of the folder. It is recognized by the
/// structure of the steps and by the exact regular expression, and is never guessed. Otherwise returns an error with
/// the reason.
fn known_split(normalizer: &Json, pre: &Json, ignores_merges: bool) -> Result<PreTokenizer, String> {
    // Qwen normalizes text to NFC first. Upstream omits this step and expects NFC text. Any other normalizer changes
    // the text, so it is an error.
    for step in json::steps(normalizer, "normalizers") {
        if json::kind(&step) != "NFC" {
            return Err(format!("its normalizer is {}, GGUF has none", json::kind(&step)));
        }
    }
    let found = expressions(pre).and_then(|all| PreTokenizer::by_expressions(&all, ignores_merges));
    found.ok_or_else(|| {
        let mut description = pre.to_string();
        let end = description.char_indices().nth(200).map_or(description.len(), |(i, _)| i);
        description.truncate(end);
        format!("its pre-tokenizer is none that has a name in GGUF and is known here: {description}")
    })
}

/// The steps of a byte-level pre-tokenizer as regular expressions, each of which cuts the parts of the one before it.
/// Returns `None` if a step is no such cut.
fn expressions(pre: &Json) -> Option<Vec<String>> {
    let steps = json::steps(pre, "pretokenizers");
    let (last, others) = steps.split_last()?;
    // `ByteLevel` comes last in most files. Falcon has other cuts after it, which see the printable spelling of bytes.
    // The expressions of these cuts match only digits, which are spelled as themselves.
    let bytes = |step: &Json| json::kind(step) == "ByteLevel";
    if others.iter().filter(|step| bytes(step)).count() + usize::from(bytes(last)) != 1 {
        return None;
    }
    let mut all = Vec::new();
    for step in &steps {
        let isolated = step["behavior"].as_str() == Some("Isolated");
        match json::kind(step) {
            "ByteLevel" if step["add_prefix_space"].as_bool().unwrap_or(true) => return None,
            "ByteLevel" if step["use_regex"].as_bool().unwrap_or(true) => all.push(words::GPT2.to_owned()),
            "ByteLevel" => {}
            "Digits" => {
                let each = step["individual_digits"].as_bool().unwrap_or(false);
                all.push(if each { r"\p{N}" } else { r"\p{N}+" }.to_owned());
            }
            "Punctuation" if isolated || step.get("behavior").is_none() => {
                all.push(expressions::PUNCTUATION.to_owned());
            }
            "Punctuation" if step["behavior"].as_str() == Some("Contiguous") => {
                all.push(expressions::PUNCTUATION_RUNS.to_owned());
            }
            "Split" if isolated && !step["invert"].as_bool().unwrap_or(false) => {
                let expression = step["pattern"]["Regex"].as_str()?;
                // Some files have the characters themselves, others have their escaped spelling.
                let escaped = [("\r", r"\r"), ("\n", r"\n"), ("\t", r"\t")];
                all.push(
                    escaped.iter().fold(expression.to_owned(), |text, (c, spelled)| text.replace(c, spelled)),
                );
            }
            _ => return None,
        }
    }
    Some(all)
}
