//! Faults of tokenizers that users of other tools reported, tested with the program.

mod tiny;

use serde_json::{Value as Json, json};
use std::path::Path;
use tiny::{Tiny, fault, json_of, kvant};

fn ids(folder: &Path, arguments: &[&str]) -> Vec<u64> {
    let json = json_of(folder, &[&["tokenize"], arguments].concat());
    json["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Writes a model and converts it. Returns the metadata of the GGUF file, and the messages of the program.
fn converted(folder: &Path, model: &Tiny) -> (Json, String) {
    model.write(&folder.join("m"));
    let output = kvant(folder, &["--json", "convert", "m", "-o", "o.gguf", "--force"], "");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    for warning in json["warnings"].as_array().unwrap() {
        assert!(errors.contains(&format!("kvant: note: {}", warning.as_str().unwrap())), "{errors}");
    }
    (json_of(folder, &["inspect", "o.gguf"])["metadata"].clone(), errors)
}

#[test]
#[cfg(unix)]
fn a_dangling_link_is_no_absent_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let path = folder.path().join("m/tokenizer.json");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("../../blobs/0123abcd", &path).unwrap();
    fault(folder.path(), &["convert", "m", "-o", "o.gguf"], &["tokenizer.json"]);
}

#[test]
fn older_files_are_read_or_refused_and_never_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new();
    model.write(&folder.path().join("m"));
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join("m").join(name), bytes).unwrap();
    std::fs::remove_file(folder.path().join("m/tokenizer.json")).unwrap();
    let convert = ["convert", "m", "-o", "o.gguf"];
    put("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02");
    fault(folder.path(), &convert, &["Unigram"]);
    std::fs::remove_file(folder.path().join("m/tokenizer.model")).unwrap();
    put("vocab.json", model.tokenizer["model"]["vocab"].to_string().as_bytes());
    fault(folder.path(), &convert, &["merges.txt"]);
    let merges = model.tokenizer["model"]["merges"].as_array().unwrap();
    let lines: String =
        merges.iter().map(|m| format!("{} {}\n", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect();
    put("merges.txt", format!("#version: 0.2\r\n{}", lines.replace('\n', "\r\n")).as_bytes());
    let mut settings = model.tokenizer_config.clone();
    settings.insert("tokenizer_class".into(), json!("GPT2Tokenizer"));
    settings.insert(
        "added_tokens_decoder".into(),
        json!({ "265": { "content": "<|im_end|>", "special": true } }),
    );
    put("tokenizer_config.json", Json::Object(settings).to_string().as_bytes());
    let before = ids(folder.path(), &["m", "--", "hello world<|im_end|>"]);
    assert_eq!(before.last(), Some(&265));
    json_of(folder.path(), &convert);
    assert_eq!(ids(folder.path(), &["o.gguf", "--", "hello world<|im_end|>"]), before);
}

#[test]
fn a_users_text_forges_no_turn_whatever_a_file_calls_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let texts = [
        "<|im_end|>",
        "<|custom|>",
        "<unused7>",
        "<pad>",
        "<s>",
        "</s>",
        "[PAD]",
        "<end_of_turn>",
        "<｜User｜>",
    ];
    let mut model = Tiny::with(1, &texts);
    for token in model.tokenizer["added_tokens"].as_array_mut().unwrap() {
        token["special"] = false.into();
    }
    converted(folder.path(), &model);
    for (id, text) in (263..).zip(texts) {
        for path in ["m", "o.gguf"] {
            assert_eq!(ids(folder.path(), &[path, "--", text]), [id], "{path} {text}");
            assert!(!ids(folder.path(), &["--no-special", path, "--", text]).contains(&id), "{path} {text}");
        }
    }
}

#[test]
fn an_end_is_the_one_that_its_id_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::with(1, &["<|bos|>", "<|user|>", "<|user|>", "<|fin|>"]);
    model.tokenizer_config.remove("eos_token");
    model.config.insert("eos_token_id".into(), json!([266]));
    let (metadata, errors) = converted(folder.path(), &model);
    assert_eq!(metadata["tokenizer.ggml.eos_token_id"], 266);
    assert!(errors.contains("<|fin|>"), "the library numbers the tokens otherwise: {errors}");

    // If two tokens have the same text, the id decides.
    model.config.insert("eos_token_id".into(), json!(265));
    model.tokenizer_config.insert("eos_token".into(), json!("<|user|>"));
    assert_eq!(converted(folder.path(), &model).0["tokenizer.ggml.eos_token_id"], 265);
}

#[test]
fn a_token_of_the_settings_alone_ends_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::new();
    let added = model.tokenizer["added_tokens"].as_array_mut().unwrap();
    added.truncate(1);
    model.tokenizer_config.insert(
        "added_tokens_decoder".into(),
        json!({ "264": { "content": "<|im_start|>", "special": true }, "265": { "content": "<|im_end|>", "special": true } }),
    );
    assert_eq!(converted(folder.path(), &model).0["tokenizer.ggml.eos_token_id"], 265);
    // If a token is named but not listed anywhere, the program prints a message.
    model.tokenizer_config.remove("added_tokens_decoder");
    let (metadata, errors) = converted(folder.path(), &model);
    assert!(metadata["tokenizer.ggml.eos_token_id"].is_null());
    assert!(errors.contains("eos_token") && errors.contains("<|im_end|>"), "{errors}");
    // An `added_tokens.json`, the older list of added tokens.
    std::fs::write(folder.path().join("m/added_tokens.json"), r#"{"<|im_end|>":265,"<|im_start|>":264}"#)
        .unwrap();
    assert_eq!(ids(folder.path(), &["m", "--", "<|im_end|>"]), [265]);
}

#[test]
fn what_a_gguf_cannot_say_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::with(1, &["<|a|>", "<|b|>", "<|c|>", "<|d|>"]);
    model.config.insert("eos_token_id".into(), json!([263, 264, 265, 266, 9999]));
    model.tokenizer_config.remove("eos_token");
    for (index, key) in ["lstrip", "rstrip", "single_word"].iter().enumerate() {
        model.tokenizer["added_tokens"][index][key] = true.into();
    }
    model.tokenizer["model"]["ignore_merges"] = true.into();
    model.tokenizer_config.insert(
        "chat_template".into(),
        json!([{ "name": "default", "template": tiny::CHATML }, { "name": "tool_use", "template": "x" }]),
    );
    let (metadata, errors) = converted(folder.path(), &model);
    assert_eq!(metadata["tokenizer.ggml.eos_token_id"], 263);
    assert_eq!(metadata["tokenizer.ggml.eot_token_id"], 264);
    for word in ["265", "266", "9999", "lstrip", "rstrip", "single_word", "ignore_merges", "tool_use"] {
        assert!(errors.contains(word), "no {word} in {errors}");
    }
    // `quantize` prints the same message.
    let json =
        json_of(folder.path(), &["quantize", "m", "-o", "q.gguf", "--method", "rtn", "--format", "q8_0"]);
    assert!(json["warnings"].to_string().contains("ignore_merges"), "{}", json["warnings"]);

    // As in `tokenizers`, a token with `lstrip` or `rstrip` takes the white space next to it.
    assert_eq!(ids(folder.path(), &["m", "--", "q \n<|a|>x<|b|> \n y"]).len(), 5);
}

#[test]
fn a_tokenizer_that_gguf_has_no_words_for_is_run_and_not_converted() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::new();
    model.tokenizer["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "[aeiou]" }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] });
    model.write(&folder.path().join("m"));
    assert_eq!(ids(folder.path(), &["m", "--", "hello"]).len(), 4);
    fault(folder.path(), &["convert", "m", "-o", "o.gguf"], &["m: ", "GGUF", "aeiou"]);
    json_of(folder.path(), &["logits", "m", "--tokens", "1,2"]);
}

#[test]
fn a_pointer_to_a_file_is_not_the_file() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    std::fs::write(folder.path().join("m/tokenizer.json"), pointer).unwrap();
    for arguments in [&["convert", "m", "-o", "o.gguf"][..], &["tokenize", "m", "x"]] {
        fault(folder.path(), arguments, &["m/tokenizer.json", "Git LFS"]);
    }
}

/// Returns the pre-tokenizer of Llama 3.
fn newer_split() -> Json {
    let expression = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] })
}

#[test]
fn a_million_spaces_are_split_as_ten() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::new();
    model.tokenizer["pre_tokenizer"] = newer_split();
    converted(folder.path(), &model);
    for path in ["m", "o.gguf"] {
        let last = |count: usize| {
            std::fs::write(folder.path().join("text"), format!("{}x1wor", " ".repeat(count))).unwrap();
            ids(folder.path(), &[path, "--file", "text"]).split_off(count - 1)
        };
        assert_eq!(last(10), last(1_100_000), "{path}");
    }
}

#[test]
fn equal_vocabularies_that_tokenize_differently_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("a"));
    std::fs::write(folder.path().join("text"), "hello world ".repeat(200)).unwrap();
    let eval = ["eval", "b", "--reference", "a", "--text", "text", "--ctx", "128"];
    let mut swapped = Tiny::new();
    swapped.tokenizer["model"]["merges"].as_array_mut().unwrap().swap(0, 1);
    let mut split = Tiny::new();
    split.tokenizer["pre_tokenizer"] = newer_split();
    let mut begins = Tiny::new();
    begins.tokenizer_config.insert("bos_token".into(), json!("<|im_start|>"));
    begins.tokenizer_config.insert("add_bos_token".into(), json!(true));
    let mut kinds = Tiny::new();
    kinds.tokenizer["added_tokens"][1]["special"] = false.into();
    kinds.tokenizer["added_tokens"][1]["content"] = "start".into();
    for other in [swapped, split, begins, kinds] {
        other.write(&folder.path().join("b"));
        fault(folder.path(), &eval, &["different tokenizers"]);
    }
    Tiny::new().write(&folder.path().join("b"));
    json_of(folder.path(), &eval);
    // The GGUF file of a folder has the same tokenizer as the folder.
    json_of(folder.path(), &["convert", "b", "-o", "b.gguf"]);
    json_of(folder.path(), &["eval", "b.gguf", "--reference", "a", "--text", "text", "--ctx", "128"]);
}
