//! Reads and writes vocabularies in GGUF metadata (`tokenizer.ggml.*`).

use super::vocabulary::{ends_everywhere, looks_special};
use super::{Kind, PreTokenizer, TokenKind, TokenizerError, Vocabulary};
use kvant_io::{Array, Metadata, Value};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
/// Keys of tokens that end a filled gap (fill-in-the-middle), a file or a repository.
const FILL_ENDS: &[&str] = &[
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Reads the vocabulary of a GGUF file; returns `None` if the file has no vocabulary.
pub(super) fn read(metadata: &Metadata) -> Result<Option<Vocabulary>, TokenizerError> {
    let Some(model) = metadata.get(MODEL) else { return Ok(None) };
    let model = model.as_str().ok_or_else(|| wrong(MODEL, "a string"))?;
    let byte_pair = match model {
        "no_vocab" | "none" => return Ok(None),
        "gpt2" => true,
        "llama" => false,
        other => return Err(TokenizerError::key(MODEL, "gpt2 or llama (others are not built yet)", other)),
    };
    let tokens = match metadata.get(TOKENS) {
        Some(Value::Array(Array::String(tokens))) => tokens.clone(),
        _ => return Err(wrong(TOKENS, "an array of strings")),
    };
    if tokens.is_empty() || tokens.len() > u32::MAX as usize {
        return Err(TokenizerError::key(TOKENS, "at least one token", tokens.len().to_string()));
    }
    let mut kinds = kinds(metadata, tokens.len())?;
    for (token, kind) in tokens.iter().zip(&mut kinds) {
        // Some converters give control tokens the kind user-defined or normal. Without this correction, text of a user
        // could begin or end a turn.
        let mistyped = match kind {
            TokenKind::UserDefined => looks_special(token),
            TokenKind::Normal => byte_pair && ends_everywhere(token),
            _ => false,
        };
        if mistyped {
            *kind = TokenKind::Control;
        }
    }
    let id = |key: &str| match metadata.get(key).map(|v| (v.as_u64(), v)) {
        None => Ok(None),
        Some((Some(id), _)) if id < tokens.len() as u64 => Ok(Some(id as u32)),
        // Upstream writes -1 or 2^32 - 1 for "none".
        Some((Some(id), _)) if id == u64::from(u32::MAX) => Ok(None),
        Some((None, Value::I32(-1))) => Ok(None),
        Some((_, v)) => {
            Err(TokenizerError::key(key, format!("an id below {}", tokens.len()), format!("{v:?}")))
        }
    };
    let flag = |key: &str, default: bool| match metadata.get(key) {
        None => Ok(default),
        Some(v) => v.as_bool().ok_or_else(|| wrong(key, "true or false")),
    };
    let (kind, adds_bos) = if byte_pair {
        let pre = metadata.get(PRE).map(|v| v.as_str().ok_or_else(|| wrong(PRE, "a string"))).transpose()?;
        let pre_tokenizer = PreTokenizer::by_name(pre.ok_or_else(|| PreTokenizer::unknown("nothing"))?)?;
        let merges = read_merges(metadata)?;
        let kind = Kind::BytePair { merges, pre_tokenizer, ignore_merges: pre_tokenizer.ignores_merges() };
        (kind, pre_tokenizer.adds_bos())
    } else {
        let scores = match metadata.get(SCORES) {
            Some(Value::Array(Array::F32(scores))) if scores.len() == tokens.len() => scores.clone(),
            Some(Value::Array(Array::F32(scores))) => {
                return Err(TokenizerError::key(
                    SCORES,
                    format!("{} scores", tokens.len()),
                    scores.len().to_string(),
                ));
            }
            _ => return Err(wrong(SCORES, "an array of f32")),
        };
        (Kind::SentencePiece { scores, add_space_prefix: flag(ADD_SPACE, true)? }, true)
    };
    let template = match metadata.get(TEMPLATE) {
        None => None,
        Some(v) => Some(v.as_str().ok_or_else(|| wrong(TEMPLATE, "a string"))?.to_owned()),
    };
    Ok(Some(Vocabulary {
        bos: id(BOS)?.or_else(|| (!byte_pair && tokens.len() > 1).then_some(1)),
        eos: id(EOS)?.or_else(|| (!byte_pair && tokens.len() > 2).then_some(2)),
        eot: id(EOT)?,
        unknown: id(UNKNOWN)?.or((!byte_pair).then_some(0)),
        padding: id(PADDING)?,
        add_bos: flag(ADD_BOS, adds_bos)?,
        add_eos: flag(ADD_EOS, false)?,
        more_ends: [EOM]
            .iter()
            .chain(FILL_ENDS)
            .filter_map(|key| id(key).transpose())
            .collect::<Result<_, _>>()?,
        chat_template: template,
        kinds,
        kind,
        tokens,
    }))
}

/// The error for a key that is missing or has a value of a wrong type.
fn wrong(key: &str, expected: &str) -> TokenizerError {
    TokenizerError::key(key, expected, "nothing or another type")
}

/// Reads the kinds of `count` tokens. If the file has no kinds, all tokens are normal.
fn kinds(metadata: &Metadata, count: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    let numbers = match metadata.get(KINDS) {
        None => return Ok(vec![TokenKind::Normal; count]),
        Some(Value::Array(Array::I32(numbers))) => numbers.clone(),
        Some(Value::Array(Array::U32(numbers))) => numbers.iter().map(|&n| n as i32).collect(),
        Some(_) => return Err(wrong(KINDS, "an array of i32")),
    };
    if numbers.len() != count {
        return Err(TokenizerError::key(KINDS, format!("{count} numbers"), numbers.len().to_string()));
    }
    Ok(numbers
        .into_iter()
        .map(|n| match n {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        })
        .collect())
}

fn read_merges(metadata: &Metadata) -> Result<Vec<(String, String)>, TokenizerError> {
    let Some(Value::Array(Array::String(lines))) = metadata.get(MERGES) else {
        return Err(wrong(MERGES, "an array of strings"));
    };
    let split = |line: &String| {
        // The first character of a token may be a space. So the search for the separator begins after the first
        // character.
        let at = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(i, _)| i);
        at.map(|i| (line[..i].to_owned(), line[i + 1..].to_owned()))
            .ok_or_else(|| TokenizerError::key(MERGES, "two tokens and a space between", format!("{line:?}")))
    };
    lines.iter().map(split).collect()
}

/// The metadata entries that upstream's converter writes for a vocabulary. The token list is padded to `rows`, the
/// number of rows of the embedding.
pub(super) fn write(vocabulary: &Vocabulary, rows: usize) -> Result<Vec<(String, Value)>, TokenizerError> {
    let count = vocabulary.tokens.len();
    if count > rows {
        return Err(TokenizerError::key(
            "the tokenizer",
            format!("at most {rows} tokens (the embedding's rows)"),
            count.to_string(),
        ));
    }
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut set = |key: &str, value: Value| entries.push((key.to_owned(), value));
    let mut tokens = vocabulary.tokens.clone();
    tokens.extend((count..rows).map(|i| format!("[PAD{i}]")));
    let mut kinds: Vec<i32> = vocabulary.kinds.iter().map(|k| *k as i32).collect();
    kinds.resize(rows, TokenKind::Unused as i32);
    match &vocabulary.kind {
        Kind::BytePair { pre_tokenizer, .. } => {
            set(MODEL, Value::String("gpt2".into()));
            set(PRE, Value::String(pre_tokenizer.name().into()));
        }
        Kind::SentencePiece { .. } => {
            set(MODEL, Value::String("llama".into()));
            set(PRE, Value::String("default".into()));
        }
        Kind::Folder { reason } => {
            let expected = "a tokenizer that GGUF has words for";
            return Err(TokenizerError::key(
                "conversion to GGUF",
                expected,
                format!("one that it has none for: {reason}"),
            ));
        }
    }
    set(TOKENS, Value::Array(Array::String(tokens)));
    if let Kind::SentencePiece { scores, .. } = &vocabulary.kind {
        let mut scores = scores.clone();
        scores.resize(rows, -1e6);
        set(SCORES, Value::Array(Array::F32(scores)));
    }
    set(KINDS, Value::Array(Array::I32(kinds)));
    if let Kind::BytePair { merges, .. } = &vocabulary.kind {
        let lines = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        set(MERGES, Value::Array(Array::String(lines)));
    }
    let ids = [
        (BOS, vocabulary.bos),
        (EOS, vocabulary.eos),
        (EOT, vocabulary.eot),
        (UNKNOWN, vocabulary.unknown),
        (PADDING, vocabulary.padding),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            set(key, Value::U32(id));
        }
    }
    set(ADD_BOS, Value::Bool(vocabulary.add_bos));
    set(ADD_EOS, Value::Bool(vocabulary.add_eos));
    if let Kind::SentencePiece { add_space_prefix, .. } = &vocabulary.kind {
        set(ADD_SPACE, Value::Bool(*add_space_prefix));
    }
    if let Some(template) = &vocabulary.chat_template {
        set(TEMPLATE, Value::String(template.clone()));
    }
    Ok(entries)
}

/// Notes on settings of the vocabulary that GGUF cannot express, one sentence each.
pub(super) fn notes(vocabulary: &Vocabulary) -> Vec<String> {
    let said = |id: u32| {
        let text = vocabulary.tokens.get(id as usize).map_or("", String::as_str);
        Some(id) == vocabulary.eos || Some(id) == vocabulary.eot || ends_everywhere(text)
    };
    let mut unsaid: Vec<u32> = vocabulary.more_ends.iter().copied().filter(|id| !said(*id)).collect();
    unsaid.sort_unstable();
    unsaid.dedup();
    let names = unsaid.iter().map(|id| {
        let text = vocabulary.tokens.get(*id as usize).map_or("no name", String::as_str);
        format!("{id} {text:?}")
    });
    match unsaid.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "a GGUF names two tokens that end an answer; these end one in the folder and not in the GGUF: {}",
            names.collect::<Vec<_>>().join(", ")
        )],
    }
}
