//! Compares the tokenizers of GGUF files with llama.cpp's ids (`tests/golden/tokens_rules`, made by
//! `tests/golden/rules.py`): every name of a pre-tokenizer, WordPiece, Unigram, and BPE with byte tokens. Checks which
//! name a folder's pre-tokenizer gets in a GGUF file, and reads hostile vocabularies.

use kvant_io::{Array, Limits, Meta, Metadata, Value};
use kvant_model::{PreTokenizer, Special, Tokenizer, TokenizerError};
use serde_json::{Value as Json, json};
use std::path::PathBuf;

const PLAIN: Special = Special { add: false, parse: false };
const PRE: &str = "tokenizer.ggml.pre";

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn metadata(name: &str) -> Metadata {
    let checkpoint =
        kvant_io::open(&golden(&format!("tokens_rules/{name}.gguf")), &Limits::default()).unwrap();
    let Meta::Gguf(metadata) = checkpoint.meta() else { panic!("no GGUF") };
    metadata.clone()
}

fn read(metadata: Metadata) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_meta(&Meta::Gguf(metadata)).map(Option::unwrap)
}

/// The texts and llama.cpp's hashes.
fn recorded() -> (Vec<String>, Json) {
    let file = json("tokens_rules/ids.json");
    let mut texts: Vec<String> = json("tokens/strings.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s[1].as_str().unwrap().to_owned())
        .collect();
    texts.extend(file["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()));
    (texts, file)
}

/// FNV-1a of 32 bits.
fn hash(ids: &[u32]) -> u32 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    bytes.fold(0x811c_9dc5, |value: u32, byte| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn compare(name: &str, tokenizer: &Tokenizer, texts: &[String], hashes: &Json) {
    let hashes: Vec<&str> = hashes.as_str().unwrap().split(' ').collect();
    assert_eq!(texts.len(), hashes.len());
    for (text, expected) in texts.iter().zip(hashes) {
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        assert_eq!(format!("{:08x}", hash(&ids)), expected, "{name}: {text:?} {ids:?}");
    }
}

#[test]
fn every_name_of_a_pre_tokenizer_gives_llama_cpps_ids() {
    let (texts, file) = recorded();
    let base = metadata("merged");
    let mut names: Vec<&str> = Vec::new();
    for rule in file["rules"].as_array().unwrap() {
        for name in rule["names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let mut metadata = base.clone();
            metadata.set(PRE, Value::String(name.into()));
            compare(name, &read(metadata).unwrap(), &texts, &rule["ids"]);
            names.push(name);
        }
    }
    // The other names belong to vocabularies of characters.
    let others: Vec<&str> = PreTokenizer::names().filter(|name| !names.contains(name)).collect();
    assert_eq!(others, ["gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"]);
}

#[test]
fn the_other_vocabularies_give_llama_cpps_ids_and_come_back_from_gguf() {
    let (texts, file) = recorded();
    for name in ["marks", "word_pieces", "unigram"] {
        let tokenizer = read(metadata(name)).unwrap();
        compare(name, &tokenizer, &texts, &file["others"][name]);
        let mut again = Metadata::default();
        for (key, value) in tokenizer.to_gguf(tokenizer.len()).unwrap() {
            again.set(key, value);
        }
        let again = read(again).unwrap();
        compare(name, &again, &texts, &file["others"][name]);
        let whole = Special { add: true, parse: true };
        let text = "the quick brown fox";
        assert_eq!(tokenizer.encode(text, whole).unwrap(), again.encode(text, whole).unwrap());
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, PLAIN).unwrap()), text, "{name}");
    }
    // WordPiece has a token before and a token after a text.
    let pieces = read(metadata("word_pieces")).unwrap();
    let ids = pieces.encode("the", Special { add: true, parse: false }).unwrap();
    assert_eq!((ids.first(), ids.last()), (pieces.id("[CLS]").as_ref(), pieces.id("[SEP]").as_ref()));
}

#[test]
fn vocabularies_of_characters_have_rules_of_their_own() {
    let encode = |model: &str, pre: &str, text: &str| {
        let mut metadata = metadata("marks");
        metadata.set("tokenizer.ggml.model", Value::String(model.into()));
        metadata.set(PRE, Value::String(pre.into()));
        let tokenizer = read(metadata).unwrap();
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        ids.iter().map(|id| tokenizer.vocabulary().tokens[*id as usize].clone()).collect::<Vec<_>>().concat()
    };
    assert_eq!(encode("gpt2", "sarvam-moe", "the end"), "▁the▁end".trim_start_matches('▁'));
    assert_eq!(encode("gpt2", "granite-embed-multi-311m", " the"), "▁the");
    assert_eq!(encode("gpt2", "whitespace", "the end"), "the<0x20>end");
    assert_eq!(encode("whitespace", "whitespace", "the \u{3000}end\n"), "theend");
}

#[test]
fn a_vocabulary_that_is_not_known_is_refused_by_name() {
    for model in ["rwkv", "plamo2", "hybriddna", "nobody-knows"] {
        let mut metadata = metadata("merged");
        metadata.set("tokenizer.ggml.model", Value::String(model.into()));
        let error = read(metadata).err().unwrap().to_string();
        assert!(error.contains(model) && error.contains("gemma4"), "{error}");
    }
}

#[test]
fn hostile_vocabularies_are_refused_or_survived() {
    let changes = [
        ("unigram", "tokenizer.ggml.precompiled_charsmap", Value::Array(Array::U8(vec![255; 9]))),
        ("unigram", "tokenizer.ggml.precompiled_charsmap", Value::Array(Array::I32(vec![1]))),
        ("unigram", "tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0]))),
        ("word_pieces", "tokenizer.ggml.seperator_token_id", Value::U32(1 << 30)),
        ("word_pieces", "tokenizer.ggml.normalizer.lowercase", Value::U32(1)),
        ("marks", "tokenizer.ggml.merges", Value::Array(Array::String(vec!["nobody knows".into()]))),
    ];
    for (name, key, value) in changes {
        let mut metadata = metadata(name);
        metadata.set(key, value);
        let error = read(metadata).err().expect(key).to_string();
        assert!(error.contains(key.trim_start_matches("tokenizer.ggml.")), "{error}");
    }
    // Scores that are no numbers, and vocabularies without a normal token.
    let (texts, _) = recorded();
    for (name, key, one) in [
        ("unigram", "tokenizer.ggml.scores", Value::Array(Array::F32(vec![f32::NAN]))),
        ("unigram", "tokenizer.ggml.scores", Value::Array(Array::F32(vec![f32::NEG_INFINITY]))),
        ("unigram", "tokenizer.ggml.token_type", Value::Array(Array::I32(vec![4]))),
        ("unigram", "tokenizer.ggml.token_type", Value::Array(Array::I32(vec![6]))),
        ("word_pieces", "tokenizer.ggml.tokens", Value::Array(Array::String(vec![String::new()]))),
    ] {
        let mut metadata = metadata(name);
        let count = read(metadata.clone()).unwrap().len();
        let all = match one {
            Value::Array(Array::F32(v)) => Array::F32(vec![v[0]; count]),
            Value::Array(Array::I32(v)) => Array::I32(vec![v[0]; count]),
            Value::Array(Array::String(v)) => Array::String(vec![v[0].clone(); count]),
            _ => panic!(),
        };
        metadata.set(key, Value::Array(all));
        if let Ok(tokenizer) = read(metadata) {
            for text in &texts {
                let _ = tokenizer.encode(text, Special { add: true, parse: true });
            }
        }
    }
}

/// A folder with the demo's vocabulary and this pre-tokenizer; returns `tokenizer.ggml.pre` of its GGUF file.
fn name_of(steps: Json, ignore_merges: bool) -> Result<String, String> {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/tokenizer.json");
    let mut file: Json = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    file["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": steps });
    file["model"]["ignore_merges"] = json!(ignore_merges);
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("config.json", b"{}");
    put("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    put("tokenizer.json", file.to_string().as_bytes());
    let checkpoint = kvant_io::open(folder.path(), &Limits::default()).unwrap();
    let tokenizer = Tokenizer::from_meta(checkpoint.meta()).unwrap().unwrap();
    let entries = tokenizer.to_gguf(tokenizer.len()).map_err(|e| e.to_string())?;
    let value = entries.into_iter().find(|(key, _)| key == PRE).unwrap().1;
    Ok(value.as_str().unwrap().to_owned())
}

#[test]
fn a_folders_pre_tokenizer_is_recognized_by_its_steps() {
    let split = |expression: &str| json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false });
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let digits = |each: bool| json!({ "type": "Digits", "individual_digits": each });
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let tekken = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let gpt4o = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    // The file has the line breaks themselves.
    let deepseek = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
    let bailing = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
    let han = "[一-龥ࠀ-一가-퟿]+";
    let kana = "[一-龥぀-ゟ゠-ヿ]+";
    let contiguous = json!({ "type": "Punctuation", "behavior": "Contiguous" });
    let known = [
        (json!([bytes(true)]), false, "gpt-2"),
        (json!([digits(true), bytes(true)]), false, "smollm"),
        (json!([split(llama3), bytes(false)]), true, "llama-bpe"),
        (json!([split(llama3), bytes(false)]), false, "smaug-bpe"),
        (json!([split(tekken), bytes(false)]), true, "tekken"),
        (json!([split(gpt4o), bytes(false)]), false, "gpt-4o"),
        (json!([split(bailing), bytes(false)]), false, "bailingmoe"),
        (json!([split(r"\p{N}{1,3}"), split(kana), split(deepseek), bytes(false)]), false, "deepseek-v3"),
        (
            json!([
                split("[\r\n]"),
                split(r"\s?\p{L}+"),
                split(r"\s?\p{P}+"),
                split(han),
                digits(true),
                bytes(false)
            ]),
            false,
            "deepseek-coder",
        ),
        (json!([contiguous, bytes(true), digits(false), split("[0-9][0-9][0-9]")]), false, "falcon"),
    ];
    for (steps, ignore_merges, name) in known {
        assert_eq!(name_of(steps.clone(), ignore_merges).as_deref(), Ok(name), "{steps}");
    }
    // A step more, a step less, another behavior or another expression: none of them is guessed.
    let mut removed = split(llama3);
    removed["behavior"] = json!("Removed");
    for steps in [
        json!([split(llama3)]),
        json!([digits(true), split(llama3), bytes(false)]),
        json!([removed, bytes(false)]),
        json!([split(&llama3.replace("{1,3}", "{1,4}")), bytes(false)]),
        json!([bytes(true), bytes(true)]),
    ] {
        let error = name_of(steps.clone(), true).expect_err("no name");
        assert!(error.contains("pre-tokenizer") || error.contains("conversion"), "{steps}: {error}");
    }
}
