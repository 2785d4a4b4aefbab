//! Compares tokenizers of model folders with the ids of `tokenizers` and `sentencepiece` (`tests/golden/tokens_folder`,
//! made by `tools/tokenizers.py --golden`), and reads hostile files.

use kvant_io::{Limits, Meta, Metadata};
use kvant_model::{Special, Tokenizer, TokenizerError};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// Creates a model folder with these files and without weights.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("config.json", b"{}");
    put("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    files.iter().for_each(|(name, bytes)| put(name, bytes));
    folder
}

fn read(path: &Path) -> Result<Option<Tokenizer>, TokenizerError> {
    Tokenizer::from_meta(kvant_io::open(path, &Limits::default()).unwrap().meta())
}

fn tokenizer(files: &[(&str, &[u8])]) -> Tokenizer {
    read(folder(files).path()).unwrap().unwrap()
}

fn refused(files: &[(&str, &[u8])], words: &[&str]) {
    let folder = folder(files);
    let error = read(folder.path()).err().expect("an error").to_string();
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    assert!(error.len() < 4096, "{} bytes", error.len());
}

fn golden_texts() -> (Json, Vec<String>) {
    let json = |name: &str| serde_json::from_slice::<Json>(&std::fs::read(golden(name)).unwrap()).unwrap();
    let ids = json("tokens_folder/ids.json");
    let mut texts: Vec<String> = json("tokens/strings.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s[1].as_str().unwrap().to_owned())
        .collect();
    texts.extend(ids["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()));
    texts.retain(|text| !text.is_empty());
    (ids, texts)
}

const WHOLE: Special = Special { add: true, parse: true };
const PLAIN: Special = Special { add: false, parse: false };

fn compare(name: &str, tokenizer: &Tokenizer, special: Special) {
    let (ids, texts) = golden_texts();
    let expected = ids[name].as_array().unwrap();
    assert_eq!(texts.len(), expected.len());
    for (text, expected) in texts.iter().zip(expected) {
        assert_eq!(json!(tokenizer.encode(text, special).unwrap()), *expected, "{name}: {text:?}");
    }
}

#[test]
fn every_kind_of_tokenizer_json_gives_the_librarys_ids() {
    for name in ["added", "first", "pieces", "one"] {
        let bytes = std::fs::read(golden("tokens_folder").join(format!("{name}.json"))).unwrap();
        compare(name, &tokenizer(&[("tokenizer.json", &bytes)]), WHOLE);
    }
}

/// Tokenizers of both kinds in a GGUF have llama.cpp's rules, which differ for accents and repeated spaces.
#[test]
fn word_pieces_and_unigram_become_a_gguf_with_the_same_ids() {
    let whole = |name: &str, change: &dyn Fn(&mut Json)| {
        let bytes = std::fs::read(golden("tokens_folder").join(name)).unwrap();
        let mut json: Json = serde_json::from_slice(&bytes).unwrap();
        change(&mut json);
        tokenizer(&[("tokenizer.json", json.to_string().as_bytes())])
    };
    let pieces = whole("pieces.json", &|_| {});
    let unigram = whole("one.json", &|json| json["normalizer"] = json["normalizer"]["normalizers"][1].take());
    for (tokenizer, model) in [(pieces, "bert"), (unigram, "t5")] {
        let mut metadata = Metadata::default();
        for (key, value) in tokenizer.to_gguf(tokenizer.len() + 4).unwrap() {
            metadata.set(key, value);
        }
        assert_eq!(metadata.get("tokenizer.ggml.model").unwrap().as_str(), Some(model));
        let twin = Tokenizer::from_meta(&Meta::Gguf(metadata)).unwrap().unwrap();
        assert_eq!(twin.around(), tokenizer.around());
        let plain = |text: &&String| {
            let words: Vec<&str> = text.split_whitespace().collect();
            // WordPiece folders do not split longer words; a GGUF puts a space after an added token.
            text.is_ascii()
                && !text.contains('<')
                && words.join(" ") == **text
                && words.iter().all(|word| word.len() <= 100)
        };
        let (_, texts) = golden_texts();
        let mut compared = 0;
        for text in texts.iter().filter(plain) {
            let ids = tokenizer.encode(text, WHOLE).unwrap();
            assert_eq!(twin.encode(text, WHOLE).unwrap(), ids, "{model}: {text:?}");
            assert_eq!(twin.decode(&ids), tokenizer.decode(&ids));
            compared += 1;
        }
        assert!(compared > 10, "{compared}");
    }
    let bytes = std::fs::read(golden("tokens_folder/one.json")).unwrap();
    let error = tokenizer(&[("tokenizer.json", &bytes)]).to_gguf(300).unwrap_err().to_string();
    assert!(error.contains("NFKC"), "{error}");
}

#[test]
fn sentencepiece_models_give_its_ids() {
    for name in ["bpe", "unigram"] {
        let bytes = std::fs::read(golden("tokens_folder").join(format!("{name}.model"))).unwrap();
        let tokenizer = tokenizer(&[("tokenizer.model", &bytes)]);
        compare(name, &tokenizer, PLAIN);
        assert_eq!(tokenizer.adds_bos(), tokenizer.bos().is_some());
        let text = "the quick brown fox jumps over it";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, PLAIN).unwrap()), text);
    }
}

#[test]
fn vocabulary_and_merges_give_the_ids_of_both_in_one_file() {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/tokenizer.json");
    let mut json: Json = serde_json::from_slice(&std::fs::read(demo).unwrap()).unwrap();
    json["pre_tokenizer"] = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": true });
    json["post_processor"] = Json::Null;
    let vocabulary = json["model"]["vocab"].to_string();
    let line = |merge: &Json| match merge.as_array() {
        Some(two) => format!("{} {}\n", two[0].as_str().unwrap(), two[1].as_str().unwrap()),
        None => format!("{}\n", merge.as_str().unwrap()),
    };
    let merges: String = json["model"]["merges"].as_array().unwrap().iter().map(line).collect();
    let merges = format!("#version: 0.2\n{merges}");
    let settings = json!({ "tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|end|>" });
    let mut added = serde_json::Map::new();
    for token in json["added_tokens"].as_array().unwrap() {
        added.insert(token["id"].to_string(), token.clone());
    }
    let mut with_added = settings.clone();
    with_added["added_tokens_decoder"] = added.into();
    let (whole, settings) = (json.to_string(), with_added.to_string());
    let one =
        tokenizer(&[("tokenizer.json", whole.as_bytes()), ("tokenizer_config.json", settings.as_bytes())]);
    let files: [(&str, &[u8]); 3] = [
        ("vocab.json", vocabulary.as_bytes()),
        ("merges.txt", merges.as_bytes()),
        ("tokenizer_config.json", settings.as_bytes()),
    ];
    let two = tokenizer(&files);
    let (_, texts) = golden_texts();
    for text in texts.iter().map(String::as_str).chain(["a<|end|> b<|user|>"]) {
        for special in [WHOLE, PLAIN] {
            assert_eq!(two.encode(text, special).unwrap(), one.encode(text, special).unwrap(), "{text:?}");
        }
    }
    assert_eq!(one.end_of_generation(), two.end_of_generation());
    // If one of the two files is missing, the error names this file. If the class has an unknown pre-tokenizer, the
    // error names the class.
    refused(&files[..1], &["merges.txt"]);
    refused(&files[1..2], &["vocab.json"]);
    let unknown = br#"{"tokenizer_class":"XglmTokenizer"}"#;
    refused(&[files[0], files[1], ("tokenizer_config.json", unknown)], &["XglmTokenizer", "tokenizer_class"]);
}

#[test]
fn the_library_file_goes_before_the_older_ones() {
    let json = std::fs::read(golden("tokens_folder/added.json")).unwrap();
    let tokenizer =
        tokenizer(&[("tokenizer.json", &json), ("tokenizer.model", b"broken"), ("vocab.json", b"{}")]);
    compare("added", &tokenizer, WHOLE);
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let json = std::fs::read(golden("tokens_folder/first.json")).unwrap();
    let marked = [b"\xef\xbb\xbf".as_slice(), &json].concat();
    compare("first", &tokenizer(&[("tokenizer.json", &marked)]), WHOLE);
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused_with_its_path() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".as_slice();
    for name in ["tokenizer.json", "tokenizer.model"] {
        refused(&[(name, pointer)], &[name, "Git LFS"]);
        refused(&[(name, b" \n")], &[name, "empty"]);
        refused(&[(name, b"\x00\x01{}[]")], &[name]);
    }
    refused(&[("vocab.json", pointer), ("merges.txt", b"a b")], &["vocab.json", "Git LFS"]);
    refused(&[("vocab.json", br#"{"a":0,"b":1}"#), ("merges.txt", b"a b c")], &["merges.txt", "line 1"]);
    refused(&[("vocab.json", br#"{"a":0,"b":1}"#), ("merges.txt", b"a b")], &["merges.txt", "\"ab\""]);
}

/// Returns the bytes of a `tokenizer.json` in which these parts are replaced.
fn changed(parts: Json) -> Vec<u8> {
    let mut json: Json =
        serde_json::from_slice(&std::fs::read(golden("tokens_folder/added.json")).unwrap()).unwrap();
    for (key, value) in parts.as_object().unwrap() {
        json[key] = value.clone();
    }
    json.to_string().into_bytes()
}

#[test]
fn hostile_parts_are_refused_and_never_panic() {
    let deep = "[".repeat(100_000);
    refused(&[("tokenizer.json", format!(r#"{{"model":{deep}"#).as_bytes())], &["tokenizer.json"]);
    let long: Vec<u8> = (0..200_000).map(|_| 0).collect();
    let parts = [
        json!({ "normalizer": long }),
        json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "AAAA" } }),
        json!({ "normalizer": { "type": "Nobody" } }),
        json!({ "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false } }),
        json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } }),
        json!({ "post_processor": { "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "nobody" } }] } }),
        json!({ "added_tokens": [{ "id": 4_000_000_000u64, "content": "x" }] }),
        json!({ "added_tokens": [{ "id": 1_000_000, "content": "x" }] }),
        json!({ "model": { "type": "BPE", "vocab": { "a": 4_000_000 }, "merges": [] } }),
        json!({ "model": { "type": "BPE", "vocab": { "a": 0 }, "merges": [["a", "b"]] } }),
        json!({ "model": { "type": "BPE", "vocab": {}, "merges": [] }, "added_tokens": [] }),
        json!({ "model": { "type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7 } }),
        json!({ "model": { "type": "WordPiece", "vocab": { "a": 0 }, "unk_token": "b" } }),
        json!({ "model": { "type": "BPE", "vocab": { "a": 0 }, "merges": [], "dropout": 0.5 } }),
    ];
    for part in parts {
        refused(&[("tokenizer.json", &changed(part))], &["tokenizer.json"]);
    }
    // Unusual parts that can be read are accepted, also if they remove or add text.
    let odd = [
        json!({ "normalizer": { "type": "Replace", "pattern": { "String": "" }, "content": "x" } }),
        json!({ "normalizer": { "type": "Replace", "pattern": { "Regex": "a*" }, "content": "" } }),
        json!({ "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "(?=[a-z])" }, "behavior": "Removed", "invert": true } }),
        json!({ "pre_tokenizer": { "type": "Split", "pattern": { "String": "" }, "behavior": "MergedWithNext", "invert": false } }),
        json!({ "pre_tokenizer": null, "normalizer": { "type": "Strip", "strip_left": true, "strip_right": true } }),
    ];
    for part in odd {
        let tokenizer = tokenizer(&[("tokenizer.json", &changed(part))]);
        for text in golden_texts().1 {
            let _ = tokenizer.encode(&text, WHOLE);
        }
    }
}

#[test]
fn every_cut_and_flip_of_a_sentencepiece_model_is_survived() {
    let bytes = std::fs::read(golden("tokens_folder/unigram.model")).unwrap();
    for end in (0..bytes.len()).step_by(97) {
        let _ = read(folder(&[("tokenizer.model", &bytes[..end])]).path());
    }
    for at in (0..bytes.len()).step_by(61) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0xff;
        if let Ok(Some(tokenizer)) = read(folder(&[("tokenizer.model", &flipped)]).path()) {
            let _ = tokenizer.encode("the ﬁ\u{3000}A™ 한 <sep>", WHOLE);
        }
    }
}

#[test]
fn a_hundred_thousand_added_tokens_cost_no_more_than_their_bytes() {
    let mut added = vec![json!({ "id": 360, "content": "a", "special": false })];
    added.extend(
        (0..100_000).map(|i| json!({ "id": 361 + i, "content": format!("<t{i}>"), "special": false })),
    );
    let mut json: Json =
        serde_json::from_slice(&std::fs::read(golden("tokens_folder/added.json")).unwrap()).unwrap();
    let vocabulary: serde_json::Map<String, Json> = json["model"]["vocab"].as_object().unwrap().clone();
    json["added_tokens"] = added.into();
    let start = vocabulary.len() as u64;
    for (i, token) in json["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        token["id"] = json!(start + i as u64 - 1);
    }
    json["added_tokens"][0]["id"] = vocabulary["a"].clone();
    let tokenizer = tokenizer(&[("tokenizer.json", json.to_string().as_bytes())]);
    let text = "<t99999>x<t7><t77777>".repeat(20_000);
    let begin = std::time::Instant::now();
    let ids = tokenizer.encode(&text, WHOLE).unwrap();
    assert_eq!(ids.len(), 4 * 20_000);
    assert_eq!(ids[0] as u64, start + 99_999);
    assert!(begin.elapsed().as_secs() < 60, "a bound against hangs");
}

#[test]
fn settings_beside_the_tokenizer_count() {
    let json = std::fs::read(golden("tokens_folder/added.json")).unwrap();
    let size = tokenizer(&[("tokenizer.json", &json)]).len() as u64;
    let settings = json!({
        "bos_token": { "content": "<|im_start|>" }, "eos_token": "<|new|>", "pad_token": "nobody",
        "add_bos_token": true, "add_eos_token": true,
        "added_tokens_decoder": {
            (size.to_string()): { "content": "<|new|>", "special": true, "rstrip": true },
            ((size + 1).to_string()): { "content": "<|tool|>", "special": false },
            ((size + 2).to_string()): { "content": "plain", "special": false, "single_word": true },
        },
    });
    let files: [(&str, &[u8]); 2] =
        [("tokenizer.json", &json), ("tokenizer_config.json", &settings.to_string().into_bytes())];
    let tokenizer = tokenizer(&files);
    let new = size as u32;
    assert_eq!(tokenizer.vocabulary().eos, Some(new));
    assert!(tokenizer.is_control(new) && tokenizer.is_control(new + 1) && !tokenizer.is_control(new + 2));
    let start = tokenizer.id("<|im_start|>").unwrap();
    let ids = tokenizer.encode("<|new|> \n plain plainly", WHOLE).unwrap();
    assert_eq!(ids[..3], [start, new, new + 2]);
    assert_eq!(ids.last(), Some(&new));
    assert_eq!(ids.iter().filter(|id| **id == new + 2).count(), 1);
    let plain = tokenizer.encode("<|new|><|tool|>plain", PLAIN).unwrap();
    assert!(!plain.contains(&new) && !plain.contains(&(new + 1)), "{plain:?}");
}

#[test]
fn a_gguf_that_types_control_tokens_as_a_users_gives_none_to_users() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo");
    let demo =
        Tokenizer::from_meta(kvant_io::open(&path, &Limits::default()).unwrap().meta()).unwrap().unwrap();
    let mut metadata = Metadata::default();
    for (key, value) in demo.to_gguf(demo.len()).unwrap() {
        metadata.set(key, value);
    }
    let key = "tokenizer.ggml.token_type";
    let Some(kvant_io::Value::Array(kvant_io::Array::I32(kinds))) = metadata.get(key) else {
        panic!("{key}")
    };
    let kinds = kinds.iter().map(|kind| if *kind == 3 { 4 } else { *kind }).collect();
    metadata.set(key, kvant_io::Value::Array(kvant_io::Array::I32(kinds)));
    metadata.set("tokenizer.ggml.eom_token_id", kvant_io::Value::U32(demo.id("<|user|>").unwrap()));
    let twin = Tokenizer::from_meta(&Meta::Gguf(metadata)).unwrap().unwrap();
    for token in ["<|end|>", "<|user|>", "</s>"] {
        let id = twin.id(token).unwrap();
        assert!(!twin.encode(token, PLAIN).unwrap().contains(&id), "{token}");
        assert_eq!(twin.encode(token, Special { add: false, parse: true }).unwrap(), [id]);
        assert!(twin.end_of_generation().contains(&id), "{token}");
    }
}

#[test]
fn two_tokenizers_differ_in_whatever_decides_ids() {
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let changed = |mut parts: Json| {
        for (key, value) in [("pre_tokenizer", &bytes), ("normalizer", &Json::Null)] {
            if parts.get(key).is_none() {
                parts[key] = value.clone();
            }
        }
        changed(parts)
    };
    let json = changed(json!({}));
    let same = tokenizer(&[("tokenizer.json", &json)]);
    let text = "Once upon a time there was the end of it.";
    assert_eq!(same.difference(&tokenizer(&[("tokenizer.json", &json)]), text).unwrap(), None);
    let mut merges: Json = serde_json::from_slice::<Json>(&json).unwrap()["model"].clone();
    let list = merges["merges"].as_array_mut().unwrap();
    list.swap(0, 1);
    let bpe = std::fs::read(golden("tokens_folder/bpe.model")).unwrap();
    let others = [
        vec![("tokenizer.json", changed(json!({ "model": merges })))],
        vec![("tokenizer.json", changed(json!({ "normalizer": { "type": "Lowercase" } })))],
        vec![
            ("tokenizer.json", json.clone()),
            ("tokenizer_config.json", br#"{"eos_token":"</s>","add_eos_token":true}"#.to_vec()),
        ],
        vec![("tokenizer.json", json.clone()), ("tokenizer_config.json", br#"{"eos_token":"the"}"#.to_vec())],
        vec![("tokenizer.model", bpe)],
    ];
    for files in others {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let difference = same.difference(&tokenizer(&files), text).unwrap();
        assert!(difference.is_some(), "{:?}", files[0].0);
    }
}
