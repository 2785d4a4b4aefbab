//! Tests the program as users run it, on the demo model that it contains.

use serde_json::Value as Json;
use std::path::Path;
use std::process::{Command, Output};

fn kvant(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvant")).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs a command that must succeed. Returns the JSON object that it prints.
fn json(arguments: &[&str]) -> Json {
    let output = kvant(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let out = text(&output.stdout);
    let mut objects = serde_json::Deserializer::from_str(&out).into_iter::<Json>();
    let object = objects.next().expect("an object").expect("JSON");
    assert!(objects.next().is_none(), "{arguments:?} printed more than one object");
    assert!(object["kvant"].is_string(), "{arguments:?}: the version is missing");
    object
}

fn fails(arguments: &[&str], status: i32, word: &str) {
    let output = kvant(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
    assert!(error.contains(word), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn files_are_the_same_for_any_threads_and_instruction_set() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["q4_0", "q8_0", "q4_k_m", "iq4_xs"] {
        let make = |name: &str, threads: &str, isa: &str| {
            let output = path(folder.path(), name);
            let made = json(&[
                "quantize", "demo", "-o", &output, "--format", format, "--method", "rtn", "--force", "-t",
                threads, "--isa", isa,
            ]);
            assert_eq!(made["bytes_out"].as_u64().unwrap(), {
                let tensors = made["tensors"].as_array().unwrap();
                tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum::<u64>()
            });
            std::fs::read(output).unwrap()
        };
        let oracle = make("oracle.gguf", "1", "scalar");
        assert!(oracle == make("one.gguf", "1", "auto"), "{format}: one thread");
        assert!(oracle == make("three.gguf", "3", "auto"), "{format}: three threads");
    }
}

#[test]
fn a_converted_model_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let (gguf, a, b) =
        (path(folder.path(), "demo.gguf"), path(folder.path(), "a.npy"), path(folder.path(), "b.npy"));
    let converted = json(&["convert", "demo", "-o", &gguf]);
    assert_eq!(converted["tensors"], 56);
    let tokens = "--tokens=0,100,200,300,400,500";
    let before = json(&["logits", "demo", tokens, "--npy", &a]);
    let after = json(&["logits", &gguf, tokens, "--npy", &b]);
    assert_eq!(before["shape"], serde_json::json!([6, 4096]));
    assert_eq!(before, after);
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "logits differ");
}

#[test]
fn measures_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (small, held_out) = (path(folder.path(), "small.gguf"), path(folder.path(), "text.txt"));
    json(&["quantize", "demo", "-o", &small, "--format", "q4_0", "--method", "rtn"]);
    let card: Json = serde_json::from_slice(&std::fs::read(format!("{small}.card.json")).unwrap()).unwrap();
    let inspected = json(&["inspect", &small]);
    assert_eq!(inspected["card"]["method"], "rtn");
    assert_eq!(inspected["card"]["input_blake3"], card["card"]["input_blake3"]);
    let text = "Once upon a time there was a little fox. 옛날에 작은 여우가 살았어요. ".repeat(40);
    std::fs::write(&held_out, text).unwrap();
    let quality = json(&["eval", &small, "--text", &held_out, "--reference", "demo", "--ctx", "128"]);
    let kld = quality["kld_mean"].as_f64().unwrap();
    assert!(kld > 1e-5 && kld < 0.1, "KLD {kld}");
    let same = json(&["eval", "demo", "--text", &held_out, "--reference", "demo", "--ctx", "128"]);
    assert_eq!(same["kld_mean"].as_f64(), Some(0.0));
    let run = |seed: &str| json(&["run", &small, "-p", "Once upon a time", "-n", "24", "--seed", seed]);
    assert_eq!(run("7")["text"], run("7")["text"]);
    assert!(run("7")["completion_tokens"].as_u64().unwrap() > 8);
}

#[test]
fn measures_speed_beside_the_machines_limits() {
    let benched = json(&[
        "bench",
        "demo",
        "-p",
        "16",
        "-n",
        "4",
        "-d",
        "0,32",
        "--parallel",
        "1,2",
        "-r",
        "2",
        "--kv",
        "q8_0",
    ]);
    let rows = benched["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp16", "tg4", "tg4×2", "tg4@d32", "tg4@d32×2"]);
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(
            number("tps_min") <= number("tps_median") && number("tps_median") <= number("tps_max"),
            "{row}"
        );
        assert!(number("bandwidth_fraction") > 0.0 && number("ops_fraction") > 0.0, "{row}");
    }
    // The depth ends inside a page of the KV cache, and the answer continues into the next page. So after a round, the
    // sequence is truncated to less than the depth, and the missing tokens are processed again.
    let again = json(&["bench", "demo", "-p", "0", "-n", "70", "-d", "100", "-r", "2", "--kv", "q4_0"]);
    assert_eq!(again["rows"][0]["test"], "tg70@d100");
    // Each step reads every weight of the demo model one time: 5.8 million values of two bytes, without the norms.
    let read = |row: usize| rows[row]["weight_bytes_per_token"].as_f64().unwrap();
    assert!((11e6..12e6).contains(&read(1)), "{}", read(1));
    assert!((read(1) / read(2) - 2.0).abs() < 1e-9);
    fails(&["bench", "demo", "-d", "100000"], 2, "at most");
    fails(&["bench", "demo", "-p", "0", "-n", "0"], 2, "nothing to run");
}

#[test]
fn examines_the_processor() {
    let examined = json(&["doctor"]);
    assert!(examined["bandwidth_gbps"].as_f64().unwrap() > 0.0);
    assert!(examined["int8_gmacs"].as_f64().unwrap() > 0.0);
    let kernels = examined["kernels"].as_array().unwrap();
    assert!(
        kernels.iter().any(|k| k["format"] == "q4_k" && k["kernel"].as_str().unwrap().contains("integers"))
    );
    let scalar = json(&["doctor", "--isa", "scalar"]);
    assert_eq!(scalar["cpu"]["isa"], "scalar");
}

#[test]
fn fast_products_and_small_caches_lose_little() {
    let folder = tempfile::tempdir().unwrap();
    let held_out = path(folder.path(), "text");
    std::fs::write(&held_out, include_str!("../../../assets/demo/heldout.txt")).unwrap();
    let small = path(folder.path(), "small.gguf");
    json(&["quantize", "demo", "-o", &small, "--format", "q4_k_m", "--method", "rtn"]);
    let measure = |more: &[&str]| {
        let base = ["eval", &small, "--reference", &small, "--text", &held_out, "--chunks", "4"];
        json(&[&base, more].concat())["kld_mean"].as_f64().unwrap()
    };
    assert_eq!(measure(&[]), 0.0);
    let rounded = ["int8", "int8-outliers", "int16"].map(|to| measure(&["--activations", to]));
    assert!(rounded[0] > 0.0 && rounded[0] < 3e-4, "{rounded:?}");
    assert!(rounded[1] > 0.0 && rounded[1] < 0.15 * rounded[0], "{rounded:?}");
    assert!(rounded[2] < 1e-3 * rounded[0], "{rounded:?}");
    let (eight, four) = (measure(&["--kv", "q8_0"]), measure(&["--kv", "q4_0"]));
    assert!(eight > 0.0 && eight < 1e-4, "{eight}");
    assert!(four > eight && four < 0.02, "{four}");
    // A prompt gives the same bits in one piece and token by token.
    let logits = |more: &[&str]| {
        let file = path(folder.path(), "logits.npy");
        let prompt = "Once upon a time there was a cat. ".repeat(20);
        let base = ["logits", &small, "--prompt", &prompt, "--npy", &file, "--force"];
        json(&[&base, more].concat());
        std::fs::read(&file).unwrap()
    };
    for more in [
        &["--activations", "int8", "--kv", "q8_0"][..],
        &["--activations", "int8-outliers", "--kv", "f16"],
        &["--activations", "int16"],
        &["--kv", "f16"],
        &["--kv", "q4_0"],
    ] {
        assert!(logits(more) == logits(&[more, &["--stepwise"]].concat()), "{more:?}");
    }
}

/// The metrics `…_as_run` use the settings of `run`, or the settings of the flags. If both flags are given, all metrics
/// use them.
#[test]
fn a_file_is_measured_as_it_is_run_too() {
    let folder = tempfile::tempdir().unwrap();
    let held_out = path(folder.path(), "text");
    std::fs::write(&held_out, include_str!("../../../assets/demo/heldout.txt")).unwrap();
    let small = path(folder.path(), "small.gguf");
    json(&["quantize", "demo", "-o", &small, "--format", "q4_0", "--method", "rtn"]);
    let measure = |more: &[&str]| {
        let base = ["eval", &small, "--reference", &small, "--text", &held_out, "--chunks", "2"];
        let found = json(&[&base, more].concat());
        ["kld_mean", "kld_mean_as_run"].map(|key| found[key].as_f64().unwrap())
    };
    let [exact, as_run] = measure(&[]);
    assert!(exact == 0.0 && as_run > 0.0, "{exact}, {as_run}");
    assert_eq!(measure(&["--activations", "int8-outliers", "--kv", "f16"]), [as_run; 2]);
    assert!(measure(&["--kv", "q4_0"])[1] > as_run);
    assert!(measure(&["--activations", "int8"])[1] > as_run);
    let alone = json(&["eval", &small, "--text", &held_out, "--chunks", "1"]);
    assert!(alone.get("kld_mean_as_run").is_none());
}

/// The table has a row for each method, except for formats without codes. If all rows use plain rounding, the last line
/// of the table says how to compare with `auto`.
#[test]
fn rows_name_their_methods() {
    let base = ["compare", "demo", "--formats", "f16,q4_0", "--chunks", "1"];
    let compared = json(&[&base[..], &["--methods", "rtn,imatrix"]].concat());
    let rows: Vec<_> = compared["rows"].as_array().unwrap().iter().collect();
    let names: Vec<_> =
        rows.iter().map(|row| (row["format"].as_str().unwrap(), row["method"].as_str().unwrap())).collect();
    assert_eq!(names, [("f16", "rtn"), ("q4_0", "rtn"), ("q4_0", "imatrix")]);
    let of = |row: usize, key: &str| rows[row][key].as_f64().unwrap();
    assert!(of(2, "kld_mean") != of(1, "kld_mean"), "{compared}");
    for row in 0..3 {
        let (file, as_run) = (of(row, "kld_mean"), of(row, "kld_mean_as_run"));
        assert!(as_run > 0.0 && (as_run - file).abs() < 0.1 * file + 1e-4, "{compared}");
    }
    let output = kvant(&["compare", "demo", "--formats", "q4_0", "--chunks", "1"]);
    assert!(text(&output.stdout).trim_end().ends_with("shows both."));
    fails(&[&base[..], &["--methods", "magic"]].concat(), 2, "magic");
}

#[test]
fn says_what_is_wrong_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let taken = path(folder.path(), "taken.gguf");
    std::fs::write(&taken, "mine").unwrap();
    fails(&["quantize", "demo", "-o", &taken], 1, "--force");
    assert_eq!(std::fs::read(&taken).unwrap(), b"mine");
    let small = path(folder.path(), "small.gguf");
    json(&["quantize", "demo", "-o", &small, "--format", "q8_0", "--method", "rtn"]);
    let again = path(folder.path(), "again.gguf");
    fails(&["quantize", &small, "-o", &again, "--format", "q4_0"], 1, "--allow-requantize");
    assert!(!Path::new(&again).exists());
    fails(&["quantize", "demo", "-o", &again, "--format", "q9"], 2, "q9");
    fails(&["quantize", "demo", "-o", &again, "--method", "magic"], 2, "magic");
    fails(&["quantize", "missing.gguf", "-o", &again], 1, "missing.gguf");
    fails(&["quantize", "demo", "-o", &again, "--memory", "20MiB"], 1, "needs up to");
    fails(&["quantize", "demo", "-o", &again, "--bpw", "4.5", "--memory", "20MiB"], 1, "needs up to");
    fails(&["quantize", "demo", "-o", &taken, "--bpw", "4.5"], 1, "--force");
    fails(&["quantize", "demo", "-o", &again, "--memory", "much"], 2, "much");
    fails(&["quantize", "demo", "-o", &again, "--bpw", "4.5", "--format", "q4_0"], 2, "--bpw");
    fails(&["quantize", "demo", "-o", &again, "--bytes", "10kB"], 1, "metadata");
    fails(&["inspect", "hf:org/name"], 2, "hf:");
    fails(&["serve", "demo", "--api-key", ""], 2, "--api-key");
    fails(&["serve", "demo", "--host", "256.0.0.1"], 1, "256.0.0.1:8080");
    fails(&["serve", "demo", "--port", "0", "--ctx", "-1"], 2, "--ctx");
    fails(&["logits", "demo", "--tokens", "99999"], 1, "99999");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "only what was made is there: {left:?}");
}

const HELD_OUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo/heldout.txt");

/// If every block keeps its format, no activations are computed. The embedding, which is also the output head, is
/// quantized nevertheless.
#[test]
fn blocks_that_are_kept_need_no_walk() {
    let folder = tempfile::tempdir().unwrap();
    let small = path(folder.path(), "small.gguf");
    let flags = ["--format", "q4_0", "--set", "^blk=bf16", "--calib-tokens", "1024"];
    let made = json(&[&["quantize", "demo", "-o", &small][..], &flags].concat());
    let tensors = made["tensors"].as_array().unwrap();
    let changed: Vec<&Json> =
        tensors.iter().filter(|t| t["from"] == "bf16" && t["format"] != "bf16").collect();
    let names: Vec<&str> =
        changed.iter().filter(|t| t["format"] != "f32").map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["token_embd.weight"]);
    assert!(made["expected"].is_null());
}

/// The output is never larger than the budget, and its error is never larger than that of a named mix of the same size.
#[test]
fn keeps_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    let small = path(folder.path(), "small.gguf");
    let mut spent = Vec::new();
    for (flag, limit) in [("--bpw", "4.6"), ("--bpw", "5.5"), ("--bytes", "3.6MB")] {
        let made = json(&[
            "quantize",
            "demo",
            "-o",
            &small,
            flag,
            limit,
            "--method",
            "rtn",
            "--calib-tokens",
            "8192",
            "--force",
        ]);
        assert_eq!(made["format"], "mixed");
        match flag {
            "--bpw" => assert!(made["bpw"].as_f64().unwrap() <= limit.parse().unwrap(), "{flag} {limit}"),
            _ => assert!(std::fs::metadata(&small).unwrap().len() <= 3_600_000, "{flag} {limit}"),
        }
        let candidates = made["allocation"]["candidates"].as_array().unwrap();
        let klds: Vec<f64> = candidates.iter().map(|c| c["kld"].as_f64().unwrap()).collect();
        assert!(candidates.len() > 1, "{candidates:?}");
        assert_eq!(candidates[0]["bytes"], made["bytes_out"]);
        spent.push(klds[0]);
        // Compare with another measured mix, on text that influenced neither of them.
        let other = candidates[1]["name"].as_str().unwrap();
        let (mix, pure) = other.split_once(' ').unwrap_or((other, ""));
        let rival = path(folder.path(), "rival.gguf");
        let flags =
            [&["quantize", "demo", "-o", &rival, "--format", mix, "--method", "rtn", "--force"][..], &[pure]];
        let flags: Vec<&str> = flags.concat().into_iter().filter(|flag| !flag.is_empty()).collect();
        if mix != "allocated" {
            json(&flags);
            let kld = |file: &str| {
                let found = json(&["eval", file, "--text", HELD_OUT, "--reference", "demo", "--chunks", "8"]);
                found["kld_mean"].as_f64().unwrap()
            };
            let (ours, theirs) = (kld(&small), kld(&rival));
            assert!(ours <= theirs, "{flag} {limit}: {ours} beside {theirs} of {other}");
        }
    }
    assert!(spent[1] < spent[0], "more bits lose less");
    fails(&["quantize", "demo", "-o", &small, "--bpw", "1", "--force"], 1, "smallest formats");
}

/// A run that is killed at any moment and started again gives the bytes of a run without interruption. The number of
/// threads does not change the bytes.
#[test]
fn goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let calm = path(folder.path(), "calm.gguf");
    let arguments = |output: &str, threads: &str| -> Vec<String> {
        [
            "quantize",
            "demo",
            "-o",
            output,
            "--format",
            "q4_k_m",
            "--method",
            "auto",
            // Enough tokens for noise and for selection text, the part of the calibration text that is held out to
            // choose settings.
            "--calib-tokens",
            "8192",
            "-t",
            threads,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let begin = std::time::Instant::now();
    assert!(
        Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(arguments(&calm, "1"))
            .output()
            .unwrap()
            .status
            .success()
    );
    let whole = begin.elapsed();
    let killed = path(folder.path(), "killed.gguf");
    for share in [0.3, 0.5, 0.7] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(arguments(&killed, "2"))
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64(share / 2.0));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    if !Path::new(&killed).exists() {
        let output =
            Command::new(env!("CARGO_BIN_EXE_kvant")).args(arguments(&killed, "2")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(std::fs::read(&calm).unwrap() == std::fs::read(&killed).unwrap(), "the bytes differ");
    assert!(!Path::new(&format!("{killed}.work")).exists(), "the work folder is left");
}
