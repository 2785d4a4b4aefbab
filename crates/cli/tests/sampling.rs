//! Tests the sampling flags of `run` and `chat`.

mod tiny;

use serde_json::json;
use std::path::Path;
use tiny::{Tiny, json_of, kvant};

/// Generates 12 tokens at temperature 0 with these flags. Returns the text.
fn text(folder: &Path, flags: &[&str]) -> String {
    let base = ["run", "m", "-p", "hello", "-n", "12", "--temp", "0"];
    json_of(folder, &[&base, flags].concat())["text"].as_str().unwrap().to_owned()
}

#[test]
fn wrong_values_are_refused_with_their_range() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let (share, positive) = ("expected a number from 0 to 1", "expected a number from 0 to 1000000");
    for (flag, value, expected) in [
        ("--temp", "-1", positive),
        ("--temp", "nan", positive),
        ("--dynatemp-range", "-0.5", positive),
        ("--dynatemp-exp", "-1", positive),
        ("--top-p", "1.5", share),
        ("--min-p", "-0.1", share),
        ("--typical", "2", share),
        ("--typical-p", "-1", share),
        ("--top-nsigma", "-2", positive),
        ("--top-n-sigma", "inf", positive),
        ("--xtc-probability", "1.1", share),
        ("--xtc-threshold", "-0.1", share),
        ("--repeat-penalty", "0", "expected a number from 0.000001 to 1000000"),
        ("--repeat-last-n", "-1", "expected a whole number from 0"),
        ("--frequency-penalty", "inf", "expected a number from -1000000 to 1000000"),
        ("--presence-penalty", "-inf", "expected a number from -1000000 to 1000000"),
        ("--dry-multiplier", "-1", positive),
        ("--dry-base", "0.5", "expected a number from 1 to 1000000"),
        ("--dry-allowed-length", "-1", "expected a whole number from 0"),
        ("--dry-penalty-last-n", "1.5", "expected a whole number from 0"),
        ("--dry-sequence-breaker", "", "expected a text of 1 to 40 bytes"),
        ("--dry-sequence-breaker", &"x".repeat(41), "expected a text of 1 to 40 bytes"),
        ("--mirostat", "1", "expected 0 (off) or 2"),
        ("--mirostat-lr", "-0.1", positive),
        ("--mirostat-ent", "-1", positive),
        ("--logit-bias", "x+1", "expected a token id, a sign and a number"),
        ("--logit-bias", "7", "expected a token id, a sign and a number"),
        ("--logit-bias", "7+inf", "or -inf"),
        ("--logit-bias", "99999999+1", "expected an id below"),
    ] {
        let argument = format!("{flag}={value}");
        let output = kvant(folder.path(), &["run", "m", "-p", "hello", "-n", "4", &argument], "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{argument}: {error}");
        assert!(error.contains(expected) && output.stdout.is_empty(), "{argument}: {error}");
        // The message names the flag. Of two spellings it names the first.
        let name = match flag {
            "--typical-p" => "typical",
            "--top-n-sigma" => "top-nsigma",
            _ => flag.trim_start_matches('-'),
        };
        assert!(error.contains(name), "{argument}: {error}");
    }
    let output = kvant(folder.path(), &["chat", "m", "--xtc-probability", "2"], "hello\n");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The default value of each flag, given as a flag, changes nothing.
#[test]
fn defaults_are_off() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let base = ["run", "m", "-p", "hello", "-n", "30", "--seed", "3"];
    let flags = [
        "--repeat-penalty 1 --repeat-last-n 64 --frequency-penalty 0 --presence-penalty 0 --dry-multiplier 0",
        "--dry-base 1.75 --dry-allowed-length 2 --dry-penalty-last-n 64 --dry-sequence-breaker x --top-nsigma -1",
        "--top-k 40 --typical 1 --top-p 0.95 --min-p 0.05 --xtc-probability 0 --xtc-threshold 0.1 --temp 0.8",
        "--dynatemp-range 0 --dynatemp-exp 1 --mirostat 0 --mirostat-lr 0.1 --mirostat-ent 5",
    ]
    .join(" ");
    let flags: Vec<&str> = flags.split(' ').collect();
    let plain = json_of(folder.path(), &base);
    assert_eq!(json_of(folder.path(), &[&base, &flags[..]].concat())["text"], plain["text"]);
    // Each of these steps changes the distribution of a model with random weights.
    for flags in [
        ["--top-nsigma", "0.5"],
        ["--typical", "0.2"],
        ["--xtc-probability", "1"],
        ["--dynatemp-range", "0.7"],
        ["--mirostat", "2"],
    ] {
        let threshold = ["--xtc-threshold", "0.001"];
        let changed = json_of(folder.path(), &[&base[..], &flags[..], &threshold[..]].concat());
        assert_ne!(changed["text"], plain["text"], "{flags:?}");
    }
}

#[test]
fn biases_and_penalties_act_on_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Tiny::new().write(&at.join("m"));
    let id = json_of(at, &["tokenize", "m", "--no-special", "--", "a"])["ids"][0].clone();
    let (more, never) = (format!("{id}+1000"), format!("{id}-inf"));
    let only_a = "a".repeat(12);
    assert_eq!(text(at, &["--logit-bias", &more]), only_a);
    assert_eq!(text(at, &["-l", &format!("{id}+400"), "-l", &format!("{id}+600")]), only_a);
    assert!(!text(at, &["--logit-bias", &more, "--logit-bias", &never]).contains('a'));
    // After its first use, the token is no longer the best; after a window of two other tokens, it is again.
    let presence = ["--logit-bias", &more, "--presence-penalty", "2000"];
    assert_eq!(text(at, &presence).matches('a').count(), 1);
    let short = [&presence[..], &["--repeat-last-n", "2"]].concat();
    assert_eq!(text(at, &short).matches('a').count(), 4);
    // DRY allows a repetition of two tokens. A breaker hides all repetitions.
    let dry = ["--logit-bias", &more, "--dry-multiplier", "2000"];
    let found = text(at, &dry);
    assert!(found.starts_with("aaa") && !found.contains("aaaa"), "{found}");
    assert_eq!(text(at, &[&dry[..], &["--dry-sequence-breaker", "a"]].concat()), only_a);
    let none = [&dry[..], &["--dry-sequence-breaker", "a", "--dry-sequence-breaker", "none"]].concat();
    assert_eq!(text(at, &none), found);
}

#[test]
fn penalties_of_a_chat_see_earlier_turns() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut model = Tiny::new();
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    model.tokenizer_config.insert("chat_template".into(), json!(template));
    model.write(&at.join("m"));
    let id = json_of(at, &["tokenize", "m", "--no-special", "--", "a"])["ids"][0].clone();
    let bias = format!("{id}+1000");
    let flags = ["chat", "m", "-n", "1", "--temp", "0", "--logit-bias", &bias];
    let plain = String::from_utf8(kvant(at, &flags, "b\nc\n").stdout).unwrap();
    assert_eq!(plain, "a\na\n");
    let penalized = [&flags[..], &["--presence-penalty", "2000"]].concat();
    let second = String::from_utf8(kvant(at, &penalized, "b\nc\n").stdout).unwrap();
    assert!(second.starts_with("a\n") && second.matches('a').count() == 1, "{second}");
}

/// `typical_p` of a folder is read. A GGUF cannot express it, so a note names it.
#[test]
fn typical_p_of_a_folder_is_used_and_its_loss_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Tiny::new().write(&at.join("m"));
    let settings = |typical_p: f64| {
        std::fs::write(at.join("m/generation_config.json"), json!({ "typical_p": typical_p }).to_string())
            .unwrap();
    };
    settings(0.2);
    let base = ["run", "m", "-p", "hello", "-n", "30"];
    let from_folder = json_of(at, &base);
    assert_eq!(from_folder["text"], json_of(at, &[&base[..], &["--typical", "0.2"]].concat())["text"]);
    assert_ne!(from_folder["text"], json_of(at, &[&base[..], &["--typical", "1"]].concat())["text"]);
    let converted = kvant(at, &["convert", "m", "-o", "m.gguf"], "");
    let note = String::from_utf8_lossy(&converted.stderr).into_owned();
    assert!(
        converted.status.success() && note.contains("typical_p 0.2 is left out; --typical 0.2 sets it"),
        "{note}"
    );
    settings(1.0);
    let converted = kvant(at, &["convert", "m", "-o", "m.gguf", "--force"], "");
    assert!(!String::from_utf8_lossy(&converted.stderr).contains("typical_p"));
    settings(2.0);
    let output = kvant(at, &base, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && error.contains("typical is 2"), "{error}");
}
