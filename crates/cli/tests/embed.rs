//! Runs models for vectors of texts through the whole program: `embed`, `convert`, `quantize`, `eval`.
//! `crates/model/tests/encoders.rs` compares hidden states with `transformers`.

mod tiny;

use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use tiny::{fault, json_of, kvant};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/encoders").join(name)
}

/// Returns the model with a tokenizer, its texts one a line, and what `transformers` makes of them.
fn words() -> (String, String, Json) {
    let folder = golden("bert-words-f16");
    let golden: Json = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    (folder.to_str().unwrap().to_owned(), texts.join("\n") + "\n", golden)
}

fn numbers(vector: &Json) -> Vec<f64> {
    vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn assert_close(found: &Json, expected: &Json) {
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len());
    let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < 1e-4, "{largest}");
}

#[test]
fn vectors_are_those_of_transformers_in_every_output() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text, golden) = words();
    std::fs::write(folder.path().join("texts.txt"), &text).unwrap();
    let object = json_of(folder.path(), &["embed", &model, "--text", "texts.txt"]);
    assert_eq!((&object["dimension"], &object["cut"]), (&64.into(), &1.into()));
    assert_eq!(object["tokens"], golden["tokens"]);
    let expected = golden["vectors"].as_array().unwrap();
    let found = object["vectors"].as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).for_each(|(found, expected)| assert_close(found, expected));
    // One JSON object a line, from the standard input.
    let output = kvant(folder.path(), &["embed", &model], &text);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), expected.len());
    for ((line, expected), tokens) in lines.lines().zip(expected).zip(golden["tokens"].as_array().unwrap()) {
        let line: Json = serde_json::from_str(line).unwrap();
        assert_eq!(line["tokens"], *tokens);
        assert_close(&line["vector"], expected);
    }
    let output = kvant(folder.path(), &["embed", &model, "--text", "texts.txt", "-o", "v.npy"], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(folder.path().join("v.npy")).unwrap();
    let data = &bytes[bytes.len() - 4 * 64 * expected.len()..];
    let first: Vec<f32> = data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).take(64).collect();
    assert_close(&first.into(), &expected[0]);
    fault(folder.path(), &["embed", &model, "--text", "texts.txt", "-o", "v.npy"], &["v.npy"]);
    let other = json_of(folder.path(), &["embed", &model, "--text", "texts.txt", "--pooling", "cls"]);
    assert_ne!(other["vectors"], object["vectors"]);
}

#[test]
fn a_written_file_gives_the_folders_vectors_and_methods_lose_little() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text, golden) = words();
    std::fs::write(folder.path().join("texts.txt"), &text).unwrap();
    let calibration =
        "the quick brown fox jumps over it and what do models give for a longer text? ".repeat(80);
    std::fs::write(folder.path().join("calibration.txt"), calibration).unwrap();
    json_of(folder.path(), &["convert", &model, "-o", "same.gguf"]);
    let object = json_of(folder.path(), &["embed", "same.gguf", "--text", "texts.txt"]);
    assert_close(&object["vectors"][0], &golden["vectors"][0]);
    for (format, method, least) in [("q8_0", "rtn", 0.999), ("q4_0", "rtn", 0.9), ("q4_0", "auto", 0.9)] {
        let file = format!("{format}-{method}.gguf");
        let arguments = ["quantize", &model, "-o", &file, "--format", format, "--method", method];
        let calibrated = ["--calib", "calibration.txt"];
        let arguments =
            if method == "rtn" { arguments.to_vec() } else { [&arguments[..], &calibrated].concat() };
        json_of(folder.path(), &arguments);
        let quality = json_of(folder.path(), &["eval", &file, "--text", "texts.txt", "--reference", &model]);
        assert_eq!((&quality["texts"], &quality["other_ids"]), (&5.into(), &0.into()));
        let mean = quality["cosine_mean"].as_f64().unwrap();
        assert!(mean > least && quality["cosine_min"].as_f64().unwrap() <= mean, "{file}: {quality}");
        assert!(quality["neighbour_agreement"].as_f64().is_some());
    }
}

#[test]
fn jobs_for_text_refuse_a_model_for_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text, _) = words();
    std::fs::write(folder.path().join("texts.txt"), text).unwrap();
    for arguments in [
        &["run", &model, "-p", "the"][..],
        &["logits", &model, "--tokens", "1,2"],
        &["bench", &model],
        &["compare", &model, "--text", "texts.txt"],
    ] {
        fault(folder.path(), arguments, &["kvant embed"]);
    }
    let output = kvant(folder.path(), &["eval", &model, "--text", "texts.txt"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--reference"));
}

/// Every family of `tests/golden/encoders` is converted without a change, and its maps are rounded.
#[test]
fn every_golden_model_is_converted_and_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut converted = 0;
    for model in std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path()) {
        let path = model.to_str().unwrap();
        json_of(folder.path(), &["convert", path, "-o", "same.gguf", "--force"]);
        let quantize =
            ["quantize", "same.gguf", "-o", "less.gguf", "--force", "--format", "q8_0", "--method", "rtn"];
        json_of(folder.path(), &quantize);
        converted += 1;
    }
    assert!(converted >= 9, "golden models are missing");
}
