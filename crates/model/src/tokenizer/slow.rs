//! Reads the older tokenizer files of a folder: a SentencePiece model, or `vocab.json` with `merges.txt`.
//!
//! Source: the slow tokenizer classes of `transformers`, which define the settings that these files do not contain.

use super::added::AddedTokens;
use super::byte_pair::{self, BytePair};
use super::express::added_notes;
use super::folder::{Loaded, Table, add_all, content, entries_of, finish, parse};
use super::json::{self, AddedToken};
use super::model::Model;
use super::pipeline::Pipeline;
use super::processor::Processor;
use super::protobuf::{ModelFile, PieceType};
use super::settings::Settings;
use super::{Engine, Kind, PreTokenizer, Spelling, TokenKind, TokenizerError, words};
use kvant_io::HuggingFace;
use serde_json::json;

/// Reads a `tokenizer.model`, which is a SentencePiece model.
pub(super) fn sentencepiece(folder: &HuggingFace, bytes: &[u8]) -> Result<Loaded, TokenizerError> {
    let file = ModelFile::read(content(bytes)?)?;
    let settings = Settings::new(folder)?;
    let mut table = Table::new((0..).zip(&file.pieces).map(|(id, piece)| {
        let kind = match piece.kind {
            PieceType::Normal => TokenKind::Normal,
            PieceType::Unknown => TokenKind::Unknown,
            PieceType::Control => TokenKind::Control,
            PieceType::UserDefined => TokenKind::UserDefined,
            PieceType::Unused => TokenKind::Unused,
            PieceType::Byte => TokenKind::Byte,
        };
        (piece.text.clone(), id, kind)
    }))?;
    // Control pieces are added tokens, because the text of a chat template may contain them.
    let control = file.pieces.iter().filter(|p| matches!(p.kind, PieceType::Control | PieceType::Unknown));
    let listed = control.map(|p| token(&p.text)).collect();
    let added = add_all(&mut table, listed, None, &settings)?;
    let mut notes = added_notes(&added);
    let kind = match file.model_type {
        2 => {
            if !file.charsmap.is_empty() {
                notes.push(
                    "a GGUF does not say by which rules characters are replaced (precompiled_charsmap)"
                        .into(),
                );
            }
            if file.remove_extra_whitespaces {
                notes.push("a GGUF of this kind keeps white space that this tokenizer removes (remove_extra_whitespaces)".into());
            }
            if file.suffix || !file.escape_whitespaces {
                notes
                    .push("a GGUF spells spaces before words and as ▁, which this tokenizer does not".into());
            }
            let mut scores: Vec<f32> = file.pieces.iter().map(|p| p.score).collect();
            scores.resize(table.tokens.len(), -1000.0);
            let prefix = settings.flag("add_prefix_space").unwrap_or(true) && file.add_dummy_prefix;
            Kind::SentencePiece { scores, add_space_prefix: prefix }
        }
        _ => Kind::Folder {
            reason: "its SentencePiece model is Unigram; GGUF files of kvant hold it from tokenizer.json"
                .into(),
        },
    };
    let unknown = file.pieces.iter().find(|p| p.kind == PieceType::Unknown).map(|p| p.text.clone());
    // Without a setting, these classes add EOS after a text, and all other classes add BOS before a text.
    let ends = matches!(settings.class(), Some("T5Tokenizer" | "PegasusTokenizer" | "MT5Tokenizer"));
    let role = |name: &str, piece: &str| {
        settings.text(name).or(Some(piece)).and_then(|t| table.by_text.get(t).copied())
    };
    let (bos, eos) = (role("bos_token", &file.bos), role("eos_token", &file.eos));
    let around = match ends {
        true => (Vec::new(), Vec::from_iter(eos)),
        false => (Vec::from_iter(bos), Vec::new()),
    };
    let everywhere = settings.flag("legacy").unwrap_or(true);
    let entries = entries_of(&added, &table).into_iter().map(|entry| entry.token).collect();
    let mut file = file;
    file.add_dummy_prefix &= settings.flag("add_prefix_space").unwrap_or(true);
    let processor = Processor::new(&file, AddedTokens::leftmost(entries)?, everywhere)?;
    let engine = (Engine::Processor(Box::new(processor)), Spelling::Marks);
    let mut loaded = finish(folder, table, kind, unknown, (Vec::new(), Vec::new()), &settings, engine)?;
    let vocabulary = &mut loaded.vocabulary;
    vocabulary.bos = vocabulary.bos.or(bos);
    vocabulary.eos = vocabulary.eos.or(eos);
    vocabulary.add_bos =
        vocabulary.bos.is_some() && settings.flag("add_bos_token").unwrap_or(!around.0.is_empty());
    vocabulary.add_eos =
        vocabulary.eos.is_some() && settings.flag("add_eos_token").unwrap_or(!around.1.is_empty());
    loaded.around = (
        Vec::from_iter(vocabulary.bos.filter(|_| vocabulary.add_bos)),
        Vec::from_iter(vocabulary.eos.filter(|_| vocabulary.add_eos)),
    );
    if !everywhere {
        notes.push(
            "a GGUF puts a space before text behind every special token, this tokenizer before the text's beginning \
             alone (legacy: false)"
                .into(),
        );
    }
    loaded.notes.extend(notes);
    Ok(loaded)
}

/// A special added token with this text.
fn token(text: &str) -> AddedToken {
    AddedToken {
        id: None,
        content: text.to_owned(),
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: Some(false),
        special: true,
    }
}

/// Settings of a class of slow tokenizers that its files do not contain.
struct Class {
    /// Names of the class in `tokenizer_class`, without the ending `Fast`.
    names: &'static [&'static str],
    /// Values of `model_type` for which this class is used if the settings name no class.
    models: &'static [&'static str],
    /// Regular expression that splits text into words.
    split: &'static str,
    /// True if text is normalized to NFC.
    composes: bool,
    /// Texts of BOS, EOS and the unknown token, if the settings do not name them. An empty text means no token.
    roles: [&'static str; 3],
    /// True if BOS is added before and EOS after every text.
    around: bool,
}

const CLASSES: &[Class] = &[
    Class {
        names: &["GPT2Tokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer"],
        models: &["gpt2", "gpt_neo", "gptj", "opt", "codegen", "phi", "gpt_bigcode", "starcoder2"],
        split: words::GPT2,
        composes: false,
        roles: ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>"],
        around: false,
    },
    Class {
        names: &["Qwen2Tokenizer"],
        models: &["qwen2", "qwen2_moe", "qwen3", "qwen3_moe"],
        split: words::QWEN2,
        composes: true,
        roles: ["", "<|endoftext|>", "<|endoftext|>"],
        around: false,
    },
    Class {
        names: &["RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"],
        models: &["roberta", "bart", "longformer"],
        split: words::GPT2,
        composes: false,
        roles: ["<s>", "</s>", "<unk>"],
        around: true,
    },
];

/// Reads a `vocab.json` with its `merges.txt`.
pub(super) fn vocabulary_and_merges(
    folder: &HuggingFace,
    vocabulary: &[u8],
    merges: &[u8],
) -> Result<Loaded, TokenizerError> {
    let at = |name: &str| {
        let path = folder.folder.join(name);
        move |source| TokenizerError::File { path: path.clone(), source: Box::new(source) }
    };
    let settings = Settings::new(folder)?;
    let (class, assumed) = class(folder, &settings).map_err(at("tokenizer_config.json"))?;
    let json::Vocab::Ids(all) = parse(vocabulary).map_err(at("vocab.json"))? else {
        return Err(at("vocab.json")(TokenizerError::key("the file", "an object token → id", "a list")));
    };
    let merges = read_merges(merges).map_err(at("merges.txt"))?;
    let mut table = Table::new(all.iter().map(|(t, id)| (t.clone(), *id, TokenKind::Normal)))
        .map_err(at("vocab.json"))?;
    let model = BytePair::new(byte_pair::Settings {
        vocabulary: all.into_iter().map(|(text, id)| (text, id as u32)).collect(),
        merges: merges.clone(),
        first_counts: false,
        of_bytes: true,
        ignore_merges: false,
        byte_fallback: false,
        unknown: None,
        fuse_unknown: false,
        prefix: String::new(),
        suffix: String::new(),
    })
    .map_err(at("merges.txt"))?;
    let named: Vec<&str> = ["bos_token", "eos_token", "unk_token"]
        .iter()
        .zip(class.roles)
        .map(|(role, text)| settings.text(role).unwrap_or(text))
        .collect();
    let known: Vec<AddedToken> =
        named.iter().filter(|t| table.by_text.contains_key(**t)).map(|t| token(t)).collect();
    let added = add_all(&mut table, known, None, &settings).map_err(at("tokenizer_config.json"))?;
    let id = |text: &str| table.by_text.get(text).copied();
    let around = match (class.around, id(named[0]), id(named[1])) {
        (true, Some(bos), Some(eos)) => (vec![bos], vec![eos]),
        _ => (Vec::new(), Vec::new()),
    };
    let (bos, eos) = (id(named[0]), id(named[1]));
    let normalizer = if class.composes { json!({ "type": "NFC" }) } else { json!(null) };
    let space = settings.flag("add_prefix_space").unwrap_or(false);
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex });
    let pre_tokenizer = match class.split {
        words::GPT2 => bytes(true),
        split => json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": split }, "behavior": "Isolated", "invert": false },
            bytes(false),
        ]}),
    };
    let entries = entries_of(&added, &table);
    let pipeline =
        Pipeline::new(&normalizer, &pre_tokenizer, true, entries, Model::BytePair(Box::new(model)))?;
    let pre_tokenizer = PreTokenizer::by_expressions(&[class.split.to_owned()], false)
        .ok_or_else(|| PreTokenizer::unknown(class.split))?;
    let kind = Kind::BytePair { merges, pre_tokenizer, ignore_merges: false };
    let unknown = id(named[2]).map(|_| named[2].to_owned());
    let engine = (Engine::Pipeline(Box::new(pipeline)), Spelling::Bytes);
    let mut loaded = finish(folder, table, kind, unknown, around, &settings, engine)?;
    loaded.vocabulary.bos = loaded.vocabulary.bos.or(bos);
    loaded.vocabulary.eos = loaded.vocabulary.eos.or(eos);
    loaded.notes.extend(added_notes(&added));
    if space {
        loaded.notes.push("a GGUF puts no space before the text (add_prefix_space)".into());
    }
    if assumed {
        loaded.notes.push(
            "nothing names the class of vocab.json and merges.txt; text is split as GPT-2's (tokenizer_class in \
             tokenizer_config.json says another)"
                .into(),
        );
    }
    Ok(loaded)
}

/// The class of the two files. The flag is true if no file names the class and it is only assumed.
fn class(folder: &HuggingFace, settings: &Settings) -> Result<(&'static Class, bool), TokenizerError> {
    // These general names do not determine the rule that splits text.
    let general = ["PreTrainedTokenizer", "TokenizersBackend", "AutoTokenizer"];
    let class = settings.class().filter(|class| !general.contains(class));
    if let Some(name) = class {
        let found = CLASSES.iter().find(|class| class.names.contains(&name));
        return found.map(|class| (class, false)).ok_or_else(|| {
            let known: Vec<&str> = CLASSES.iter().flat_map(|class| class.names.iter().copied()).collect();
            let expected =
                format!("a class whose split of vocab.json and merges.txt is known ({})", known.join(", "));
            TokenizerError::key("tokenizer_class", expected, name)
        });
    }
    let model = folder.config.get("model_type").and_then(|m| m.as_str()).unwrap_or_default();
    let found = CLASSES.iter().find(|class| class.models.contains(&model));
    Ok(found.map_or((&CLASSES[0], true), |class| (class, false)))
}

/// Reads the merges of a `merges.txt`, one merge for each line. The version line is skipped.
fn read_merges(bytes: &[u8]) -> Result<Vec<(String, String)>, TokenizerError> {
    let text = std::str::from_utf8(content(bytes)?).map_err(|e| {
        TokenizerError::key("the file", "UTF-8", format!("other bytes at offset {}", e.valid_up_to()))
    })?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.starts_with("#version"));
    lines
        .map(|(line, number)| {
            let two = line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.contains(' '));
            two.map(|(left, right)| (left.to_owned(), right.to_owned())).ok_or_else(|| {
                TokenizerError::key(
                    format!("line {number}"),
                    "two tokens and a space between",
                    format!("{line:?}"),
                )
            })
        })
        .collect()
}
