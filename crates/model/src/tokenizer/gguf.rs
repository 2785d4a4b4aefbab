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
// Upstream's spelling.
const SEPARATOR: &str = "tokenizer.ggml.seperator_token_id";
const CLS: &str = "tokenizer.ggml.cls_token_id";
const MASK: &str = "tokenizer.ggml.mask_token_id";
const REMOVE_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Reads the vocabulary of a GGUF file; returns `None` if the file has no vocabulary.
pub(super) fn read(metadata: &Metadata) -> Result<Option<Vocabulary>, TokenizerError> {
    let Some(model) = metadata.get(MODEL) else { return Ok(None) };
    let model = model.as_str().ok_or_else(|| wrong(MODEL, "a string"))?;
    if matches!(model, "no_vocab" | "none") {
        return Ok(None);
    }
    let Some(defaults) = DEFAULTS.iter().find(|d| d.models.contains(&model)) else {
        let known: Vec<&str> = DEFAULTS.iter().flat_map(|d| d.models.iter().copied()).collect();
        return Err(TokenizerError::key(MODEL, format!("one of {}", known.join(", ")), model));
    };
    let tokens = match metadata.get(TOKENS) {
        Some(Value::Array(Array::String(tokens))) => tokens.clone(),
        _ => return Err(wrong(TOKENS, "an array of strings")),
    };
    if tokens.is_empty() || tokens.len() > u32::MAX as usize {
        return Err(TokenizerError::key(TOKENS, "at least one token", tokens.len().to_string()));
    }
    let mut kinds = kinds(metadata, tokens.len())?;
    // In these vocabularies `</s>` is text.
    let ends = |token: &str| ends_everywhere(token) && !(token == "</s>" && plain_end(&tokens));
    for (token, kind) in tokens.iter().zip(&mut kinds) {
        // Some converters give control tokens the kind user-defined or normal. Without this correction, text of a user
        // could begin or end a turn.
        let mistyped = match kind {
            TokenKind::UserDefined => looks_special(token),
            TokenKind::Normal => defaults.merges && ends(token),
            _ => false,
        };
        if mistyped {
            *kind = TokenKind::Control;
        } else if *kind == TokenKind::Control && token == "</s>" && plain_end(&tokens) {
            *kind = TokenKind::Normal;
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
    let or_default = |key: &str, default: Option<u32>| {
        Ok::<_, TokenizerError>(id(key)?.or(default.filter(|id| (*id as usize) < tokens.len())))
    };
    let (kind, adds_bos) = match model {
        "llama" => {
            let kind = Kind::SentencePiece {
                scores: scores(metadata, tokens.len())?,
                add_space_prefix: flag(ADD_SPACE, true)?,
            };
            (kind, true)
        }
        "bert" => {
            let lowercase = flag(LOWERCASE, true)?;
            let kind = Kind::WordPiece {
                lowercase,
                strip_accents: flag(STRIP_ACCENTS, lowercase)?,
                separator: or_default(SEPARATOR, Some(102))?,
            };
            (kind, true)
        }
        "t5" => {
            let charsmap = match metadata.get(CHARSMAP) {
                None => Vec::new(),
                Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
                Some(Value::Array(Array::I8(bytes))) => bytes.iter().map(|b| *b as u8).collect(),
                Some(_) => return Err(wrong(CHARSMAP, "an array of bytes")),
            };
            let kind = Kind::Unigram {
                scores: scores(metadata, tokens.len())?,
                charsmap,
                add_space_prefix: flag(ADD_SPACE, false)?,
                remove_extra_whitespaces: flag(REMOVE_SPACES, false)?,
            };
            (kind, false)
        }
        _ => {
            let pre_tokenizer = match PreTokenizer::of_model(model) {
                Some(own) => own,
                None => {
                    let name = text(metadata, PRE)?.ok_or_else(|| PreTokenizer::unknown("nothing"))?;
                    PreTokenizer::by_name(name)?
                }
            };
            if model == "whitespace" && flag(LOWERCASE, false)? {
                return Err(TokenizerError::key(LOWERCASE, "false for the model whitespace", "true"));
            }
            let merges = match metadata.get(MERGES) {
                None if pre_tokenizer.name() == "kimi-k2" => Vec::new(),
                _ => read_merges(metadata)?,
            };
            let ignore_merges = pre_tokenizer.ignores_merges();
            (Kind::BytePair { merges, pre_tokenizer, ignore_merges }, pre_tokenizer.adds_bos())
        }
    };
    // Upstream adds BOS for these rules and for WordPiece, whatever the file says.
    let always = match &kind {
        Kind::BytePair { pre_tokenizer, .. } => pre_tokenizer.always_adds_bos(),
        Kind::WordPiece { .. } => true,
        _ => false,
    };
    let (takes_before, takes_after) = takes_space(metadata, &tokens, &kinds);
    Ok(Some(Vocabulary {
        bos: or_default(BOS, defaults.bos)?,
        eos: or_default(EOS, defaults.eos)?,
        eot: id(EOT)?,
        unknown: or_default(UNKNOWN, defaults.unknown)?,
        padding: or_default(PADDING, defaults.padding)?,
        mask: id(MASK)?,
        add_bos: flag(ADD_BOS, adds_bos)? || always,
        add_eos: flag(ADD_EOS, model == "t5")?,
        takes_before,
        takes_after,
        more_ends: [EOM]
            .iter()
            .chain(FILL_ENDS)
            .filter_map(|key| id(key).transpose())
            .collect::<Result<_, _>>()?,
        chat_template: text(metadata, TEMPLATE)?.map(str::to_owned),
        kinds,
        kind,
        tokens,
    }))
}

/// Ids that upstream assumes if a file does not have their keys.
struct Defaults {
    /// Values of `tokenizer.ggml.model`.
    models: &'static [&'static str],
    /// True if the model has merges.
    merges: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
}

const DEFAULTS: &[Defaults] = &[
    Defaults {
        models: &["gpt2", "gemma4", "whitespace"],
        merges: true,
        bos: None,
        eos: None,
        unknown: None,
        padding: None,
    },
    Defaults {
        models: &["llama"],
        merges: false,
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        padding: None,
    },
    Defaults {
        models: &["bert"],
        merges: false,
        bos: Some(101),
        eos: None,
        unknown: Some(100),
        padding: Some(0),
    },
    Defaults { models: &["t5"], merges: false, bos: None, eos: Some(1), unknown: Some(2), padding: Some(0) },
];

/// True if `</s>` is text in a vocabulary: another of its tokens ends an answer.
fn plain_end(tokens: &[String]) -> bool {
    tokens.iter().any(|token| matches!(token.as_str(), "<|tool_response>" | "<|plamo:eos|>"))
}

/// The ids of added tokens that take the white space before them, and of those that take the white space after them.
/// Upstream knows them by the name of the model, of its architecture or of its pre-tokenizer.
fn takes_space(metadata: &Metadata, tokens: &[String], kinds: &[TokenKind]) -> (Vec<u32>, Vec<u32>) {
    let value = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = value("general.name").to_lowercase();
    let (pre, architecture) = (value(PRE), value("general.architecture"));
    let any = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let ids = |is: &dyn Fn(&str, TokenKind) -> bool| -> Vec<u32> {
        let all = (0..).zip(tokens.iter().zip(kinds));
        all.filter(|(_, (token, kind))| is(token, **kind)).map(|(id, _)| id).collect()
    };
    if any(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
        || any(architecture, &["nomic-bert-moe", "jina-bert-v3"])
    {
        (ids(&|token, _| token == "<mask>"), Vec::new())
    } else if any(&name, &["phi-3", "phi3"]) {
        let special = |kind| matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown);
        let keeps = |token: &str| matches!(token, "<unk>" | "<s>" | "<|endoftext|>");
        (Vec::new(), ids(&|token, kind| special(kind) && !keeps(token)))
    } else if any(&name, &["modern-bert"]) {
        (ids(&|token, _| token == "[MASK]"), Vec::new())
    } else {
        (Vec::new(), Vec::new())
    }
}

/// The text of a key; `None` if the file does not have the key.
fn text<'a>(metadata: &'a Metadata, key: &str) -> Result<Option<&'a str>, TokenizerError> {
    metadata.get(key).map(|v| v.as_str().ok_or_else(|| wrong(key, "a string"))).transpose()
}

/// Reads the scores of `count` tokens.
fn scores(metadata: &Metadata, count: usize) -> Result<Vec<f32>, TokenizerError> {
    match metadata.get(SCORES) {
        Some(Value::Array(Array::F32(scores))) if scores.len() == count => Ok(scores.clone()),
        Some(Value::Array(Array::F32(scores))) => {
            Err(TokenizerError::key(SCORES, format!("{count} scores"), scores.len().to_string()))
        }
        _ => Err(wrong(SCORES, "an array of f32")),
    }
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
            set(MODEL, Value::String(pre_tokenizer.model().into()));
            set(PRE, Value::String(pre_tokenizer.name().into()));
        }
        Kind::WordPiece { .. } => {
            set(MODEL, Value::String("bert".into()));
            set(PRE, Value::String("default".into()));
        }
        Kind::Unigram { .. } => {
            set(MODEL, Value::String("t5".into()));
            set(PRE, Value::String("default".into()));
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
    if let Kind::SentencePiece { scores, .. } | Kind::Unigram { scores, .. } = &vocabulary.kind {
        let mut scores = scores.clone();
        scores.resize(rows, -1e6);
        set(SCORES, Value::Array(Array::F32(scores)));
    }
    set(KINDS, Value::Array(Array::I32(kinds)));
    if let Kind::BytePair { merges, .. } = &vocabulary.kind {
        let lines = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        set(MERGES, Value::Array(Array::String(lines)));
    }
    // Upstream knows the ends of WordPiece's texts as BOS and separator.
    let words = matches!(vocabulary.kind, Kind::WordPiece { .. });
    let ids = [
        (BOS, vocabulary.bos),
        (EOS, vocabulary.eos.filter(|_| !words)),
        (EOT, vocabulary.eot.filter(|_| !words)),
        (UNKNOWN, vocabulary.unknown),
        (PADDING, vocabulary.padding),
        (CLS, vocabulary.bos.filter(|_| words)),
        (MASK, vocabulary.mask),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            set(key, Value::U32(id));
        }
    }
    set(ADD_BOS, Value::Bool(vocabulary.add_bos));
    set(ADD_EOS, Value::Bool(vocabulary.add_eos && !words));
    match &vocabulary.kind {
        Kind::SentencePiece { add_space_prefix, .. } => set(ADD_SPACE, Value::Bool(*add_space_prefix)),
        Kind::WordPiece { lowercase, strip_accents, separator } => {
            set(LOWERCASE, Value::Bool(*lowercase));
            set(STRIP_ACCENTS, Value::Bool(*strip_accents));
            if let Some(id) = separator {
                set(SEPARATOR, Value::U32(*id));
            }
        }
        Kind::Unigram { charsmap, add_space_prefix, remove_extra_whitespaces, .. } => {
            set(ADD_SPACE, Value::Bool(*add_space_prefix));
            set(REMOVE_SPACES, Value::Bool(*remove_extra_whitespaces));
            if !charsmap.is_empty() {
                set(CHARSMAP, Value::Array(Array::U8(charsmap.clone())));
            }
        }
        Kind::BytePair { .. } | Kind::Folder { .. } => {}
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
