//! Vocabularies in a Hugging Face folder: `tokenizer.json` and what stands beside it.
//!
//! The pre-tokenizer is told by its structure and regular expression, never guessed: what is not known is refused.

use super::{Kind, PreTokenizer, TokenKind, TokenizerError, Vocabulary, sentencepiece};
use kvant_io::HuggingFace;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Ids that a file may name: far above real vocabularies.
const LARGEST_ID: u64 = 1 << 22;

/// The vocabulary of a folder; `None` where there is no `tokenizer.json`.
pub(super) fn read(folder: &HuggingFace) -> Result<Option<Vocabulary>, TokenizerError> {
    let Some(bytes) = &folder.tokenizer else { return Ok(None) };
    let json: Json = serde_json::from_slice(bytes)
        .map_err(|e| TokenizerError::key("tokenizer.json", "JSON", e.to_string()))?;
    let model = &json["model"];
    // Files written before the key existed are BPE if they have merges.
    let is_bpe = model["type"].as_str().map_or(model["merges"].is_array(), |t| t == "BPE");
    if !is_bpe {
        let found = model["type"].as_str().unwrap_or("another kind");
        return Err(TokenizerError::key("model.type", "BPE (others are not built yet)", found));
    }
    let (mut tokens, mut kinds) = tokens(model, &json["added_tokens"])?;
    let merges = merges(&model["merges"])?;
    let byte_fallback = model["byte_fallback"].as_bool().unwrap_or(false);
    let kind = if byte_fallback {
        for (token, kind) in tokens.iter().zip(&mut kinds) {
            if sentencepiece::byte(token).is_some() {
                *kind = TokenKind::Byte;
            }
        }
        Kind::SentencePiece { scores: scores(&tokens, &merges), add_space_prefix: adds_space(&json) }
    } else {
        let ignore_merges = model["ignore_merges"].as_bool().unwrap_or(false);
        Kind::BytePair { merges, pre_tokenizer: pre_tokenizer(&json)?, ignore_merges }
    };
    let by_text: HashMap<&str, u32> =
        tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i as u32)).collect();
    let named = Named { folder, by_text: &by_text };
    let unknown =
        model["unk_token"].as_str().or(named.text("unk_token")).and_then(|t| by_text.get(t).copied());
    let mut ends = named.ids(folder.generation_config.as_ref(), "eos_token_id");
    ends.extend(named.ids(Some(&folder.config), "eos_token_id"));
    let eos = named.id("eos_token").or(ends.first().copied());
    let bos = named.id("bos_token").or(named.ids(Some(&folder.config), "bos_token_id").first().copied());
    let (first, last) = post_processor(&json["post_processor"], bos, eos, &by_text);
    let vocabulary = Vocabulary {
        bos,
        eos,
        eot: ends.iter().copied().find(|id| Some(*id) != eos),
        unknown,
        padding: named.id("pad_token"),
        add_bos: named.flag("add_bos_token").unwrap_or(first),
        add_eos: named.flag("add_eos_token").unwrap_or(last),
        more_ends: ends,
        chat_template: chat_template(folder),
        kind,
        kinds: Vec::new(),
        tokens: Vec::new(),
    };
    if let Some(id) = unknown.filter(|_| byte_fallback) {
        kinds[id as usize] = TokenKind::Unknown;
    }
    // A user-defined token spells its spaces as SentencePiece does; in GGUF it is plain text.
    if byte_fallback {
        for (token, kind) in tokens.iter_mut().zip(&kinds) {
            if *kind == TokenKind::UserDefined {
                *token = token.replace(sentencepiece::SPACE, " ");
            }
        }
    }
    Ok(Some(Vocabulary { kinds, tokens, ..vocabulary }))
}

fn tokens(model: &Json, added: &Json) -> Result<(Vec<String>, Vec<TokenKind>), TokenizerError> {
    let vocabulary = model["vocab"]
        .as_object()
        .ok_or_else(|| TokenizerError::key("model.vocab", "an object token → id", "something else"))?;
    let mut all: Vec<(u64, &str, TokenKind)> = Vec::new();
    for (token, id) in vocabulary {
        let id = id.as_u64().filter(|&id| id < LARGEST_ID);
        let id =
            id.ok_or_else(|| TokenizerError::key("model.vocab", "ids below 2^22", format!("{token:?}")))?;
        all.push((id, token, TokenKind::Normal));
    }
    for entry in added.as_array().map_or(&[][..], Vec::as_slice) {
        let (Some(token), Some(id)) =
            (entry["content"].as_str(), entry["id"].as_u64().filter(|&id| id < LARGEST_ID))
        else {
            return Err(TokenizerError::key(
                "added_tokens",
                "content and an id below 2^22",
                entry.to_string(),
            ));
        };
        let special = entry["special"].as_bool().unwrap_or(false);
        all.push((id, token, if special { TokenKind::Control } else { TokenKind::UserDefined }));
    }
    let count = all.iter().map(|(id, ..)| *id as usize + 1).max().unwrap_or(0);
    // Holes are allowed, but not a handful of tokens that claim millions of ids.
    if count == 0 || count > 4 * all.len() + 1024 {
        return Err(TokenizerError::key(
            "model.vocab",
            "dense ids",
            format!("{} tokens up to id {count}", all.len()),
        ));
    }
    let mut tokens: Vec<String> = (0..count).map(|i| format!("[PAD{i}]")).collect();
    let mut kinds = vec![TokenKind::Unused; count];
    for (id, token, kind) in all {
        tokens[id as usize] = token.to_owned();
        kinds[id as usize] = kind;
    }
    Ok((tokens, kinds))
}

fn merges(json: &Json) -> Result<Vec<(String, String)>, TokenizerError> {
    let bad = |found: &Json| TokenizerError::key("model.merges", "pairs of tokens", found.to_string());
    let list = json.as_array().ok_or_else(|| bad(&Json::Null))?;
    let pair = |entry: &Json| match entry {
        Json::String(line) => line.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())),
        Json::Array(two) if two.len() == 2 => {
            two[0].as_str().zip(two[1].as_str()).map(|(l, r)| (l.into(), r.into()))
        }
        _ => None,
    };
    list.iter().map(|entry| pair(entry).ok_or_else(|| bad(entry))).collect()
}

/// Scores under which merging by score repeats merging by rank: a token's best rank, negated. Tokens that no merge
/// makes are never joined.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (i, (left, right)) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}")).or_insert(i);
    }
    tokens.iter().map(|t| rank.get(t).map_or(-1e6, |r| -(*r as f32))).collect()
}

fn pre_tokenizer(json: &Json) -> Result<PreTokenizer, TokenizerError> {
    let pre = &json["pre_tokenizer"];
    let steps = match pre["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre),
    };
    let kind = |step: &Json| step["type"].as_str().unwrap_or_default().to_owned();
    let plain_bytes =
        |step: &Json| kind(step) == "ByteLevel" && !step["add_prefix_space"].as_bool().unwrap_or(true);
    let gpt2 = |step: &Json| plain_bytes(step) && step["use_regex"].as_bool().unwrap_or(true);
    let found = match steps {
        [bytes] if gpt2(bytes) => Some(PreTokenizer::Gpt2),
        [digits, bytes]
            if kind(digits) == "Digits"
                && digits["individual_digits"].as_bool() == Some(true)
                && gpt2(bytes) =>
        {
            Some(PreTokenizer::Smollm)
        }
        [split, bytes]
            if kind(split) == "Split"
                && split["behavior"].as_str() == Some("Isolated")
                && !split["invert"].as_bool().unwrap_or(false)
                && plain_bytes(bytes)
                && bytes["use_regex"].as_bool() == Some(false) =>
        {
            split["pattern"]["Regex"].as_str().and_then(PreTokenizer::by_expression)
        }
        _ => None,
    };
    // Qwen normalizes to NFC first, which upstream leaves to the text's author; anything else changes text.
    let normalizer = &json["normalizer"];
    if !normalizer.is_null() && kind(normalizer) != "NFC" {
        return Err(TokenizerError::key("normalizer", "none or NFC", kind(normalizer)));
    }
    found.ok_or_else(|| {
        let mut description = pre.to_string();
        let end = description.char_indices().nth(200).map_or(description.len(), |(i, _)| i);
        description.truncate(end);
        PreTokenizer::unknown(description)
    })
}

/// Whether a SentencePiece-like file puts a space before text, as a normalizer or as a pre-tokenizer.
fn adds_space(json: &Json) -> bool {
    let normalizer = &json["normalizer"];
    let steps = normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    let prepends = steps.iter().any(|s| s["type"].as_str() == Some("Prepend"));
    let pre = &json["pre_tokenizer"];
    let metaspace =
        pre["type"].as_str() == Some("Metaspace") && pre["prepend_scheme"].as_str() != Some("never");
    prepends || metaspace
}

/// Whether the template of single texts begins with BOS and ends with EOS.
fn post_processor(
    json: &Json,
    bos: Option<u32>,
    eos: Option<u32>,
    by_text: &HashMap<&str, u32>,
) -> (bool, bool) {
    let steps = json["processors"].as_array().map_or(std::slice::from_ref(json), Vec::as_slice);
    let template = steps.iter().find_map(|s| s["single"].as_array());
    let Some(template) = template else { return (false, false) };
    let is = |entry: Option<&Json>, id: Option<u32>| {
        let name = entry.and_then(|e| e["SpecialToken"]["id"].as_str());
        id.is_some() && name.and_then(|n| by_text.get(n).copied()) == id
    };
    (is(template.first(), bos), is(template.last(), eos))
}

fn chat_template(folder: &HuggingFace) -> Option<String> {
    if let Some(template) = &folder.chat_template {
        return Some(template.clone());
    }
    match folder.tokenizer_config.as_ref()?.get("chat_template")? {
        Json::String(template) => Some(template.clone()),
        // Several named templates: the default one.
        Json::Array(list) => {
            let default = list.iter().find(|t| t["name"].as_str() == Some("default"));
            default.and_then(|t| t["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    }
}

/// Look-ups of tokens that the settings name.
struct Named<'a> {
    folder: &'a HuggingFace,
    by_text: &'a HashMap<&'a str, u32>,
}

impl Named<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        let value = self.folder.tokenizer_config.as_ref()?.get(key)?;
        value.as_str().or_else(|| value["content"].as_str())
    }

    fn id(&self, key: &str) -> Option<u32> {
        self.text(key).and_then(|t| self.by_text.get(t).copied())
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.folder.tokenizer_config.as_ref()?.get(key)?.as_bool()
    }

    /// One id or a list of them.
    fn ids(&self, json: Option<&Json>, key: &str) -> Vec<u32> {
        let Some(value) = json.and_then(|j| j.get(key)) else { return Vec::new() };
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let ids = list.iter().filter_map(Json::as_u64).filter(|&id| id < self.by_text.len() as u64);
        ids.map(|id| id as u32).collect()
    }
}
