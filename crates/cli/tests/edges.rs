//! Tests the program in unusual conditions: values that formats cannot store, flags with unusual values, text that
//! controls terminals, signals, closed streams, and machines with too little memory.

mod tiny;

use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tiny::{Tiny, bf16, fault, json_of, kvant};

const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
const ESCAPE: &str = "\u{1b}]0;owned\u{7}";

/// Returns the exit status and the text of stderr.
fn run(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = kvant(folder, arguments, "");
    (output.status.code().expect("an exit status"), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn has_raw(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.chars().any(|c| c.is_control() && c != '\n' && c != '\t' || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[test]
fn an_overflow_names_its_element_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    for odd in [3e38f32, -3e38] {
        let mut model = Tiny::new();
        model.tensor(DOWN).3[2 * 773..][..2].copy_from_slice(&bf16(odd));
        model.write(&folder.path().join("m"));
        for format in
            ["f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_k", "q5_k", "q6_k", "iq4_xs"]
        {
            let base = ["quantize", "m", "-o", "o.gguf", "--force", "--pure", "--format", format];
            for method in [&["--method", "rtn"][..], &["--method", "imatrix", "--calib-tokens", "512"]] {
                let words = ["blk.0.ffn_down.weight", "element 773:", "2.990763e38", format, "--set"];
                fault(folder.path(), &[&base, method].concat(), &words);
            }
        }
        for format in ["f32", "bf16", "mxfp4"] {
            let made = json_of(
                folder.path(),
                &[
                    "quantize", "m", "-o", "o.gguf", "--force", "--method", "rtn", "--pure", "--format",
                    format,
                ],
            );
            assert!(made["bytes_out"].as_u64().unwrap() > 0);
        }
    }
}

#[test]
fn a_tensor_that_is_lost_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::new();
    model.tensor(DOWN).3 = bf16(1e-12).repeat(256 * 256);
    model.write(&folder.path().join("m"));
    for method in ["rtn", "auto"] {
        let flags = ["--method", method, "--calib-tokens", "512", "--own-tokens", "0"];
        let flags = if method == "rtn" { &flags[..2] } else { &flags[..] };
        let made = json_of(
            folder.path(),
            &[&["quantize", "m", "-o", "o.gguf", "--force", "--format", "q4_0", "--pure"], flags].concat(),
        );
        let warnings: Vec<&str> =
            made["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        // Methods that compensate for errors do not store zero for the weights.
        let (flag, word) =
            if method == "rtn" { ("all-zero", "became zero") } else { ("large-error", "as large") };
        let named = |w: &&&str| w.contains("blk.0.ffn_down.weight") && w.contains(word);
        assert_eq!(warnings.iter().filter(named).count(), 1, "{warnings:?}");
        let tensors = made["tensors"].as_array().unwrap();
        let lost = tensors.iter().find(|t| t["name"] == "blk.0.ffn_down.weight").unwrap();
        assert!(lost["rel_rmse"].as_f64().unwrap() >= 0.5, "{lost}");
        assert!(lost["flags"].as_array().unwrap().contains(&json!(flag)), "{lost}");
    }
}

#[test]
fn a_pattern_has_to_name_what_can_change() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let base = ["quantize", "m", "-o", "o.gguf", "--force", "--method", "rtn", "--set"];
    for (pattern, word) in [
        ("ffn_dwon=q8_0", "names no tensor"),
        ("^blk\\.7=q8_0", "names no tensor"),
        ("DOWN=q8_0", "names no tensor"),
        ("norm=q8_0", "keep their format"),
        ("^output_norm.weight$=f16", "output_norm.weight"),
        ("down\u{1b}[2J=q8_0", "\\u{1b}[2J"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let (status, error) = run(folder.path(), &[&base, &[pattern][..], more].concat());
            assert_eq!(status, 2, "{pattern}: {error}");
            assert!(error.contains("--set") && error.contains(word), "{pattern}: {error}");
        }
    }
    // A pattern that names both kinds of tensors is accepted. A pattern that a later pattern overrides is accepted,
    // too.
    let both = ["--set", "norm|down=q4_0", "--set", "down=q5_1"];
    let made = json_of(folder.path(), &[&base[..7], &both].concat());
    let format = |name: &str| {
        made["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap()["format"].clone()
    };
    assert_eq!(format("blk.0.ffn_down.weight"), "q5_1");
    assert_eq!(format("output_norm.weight"), "f32");
}

#[test]
fn negative_numbers_mean_what_they_do_in_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    for count in ["-1", "-2"] {
        let ran = json_of(
            folder.path(),
            &["run", "m", "-p", "hello world", "-c", "40", "-n", count, "--temp", "2"],
        );
        let (prompt, answer) =
            (ran["prompt_tokens"].as_u64().unwrap(), ran["completion_tokens"].as_u64().unwrap());
        assert!(ran["finish_reason"] == "stop" || prompt + answer >= 40, "{ran}");
        assert_eq!(ran["seed"], 0);
    }
    let output = kvant(folder.path(), &["chat", "m", "-c", "40", "-n", "-1"], "hello\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let drawn = || {
        let output = kvant(
            folder.path(),
            &["run", "m", "-p", "hello", "-n", "12", "--seed", "-1", "--temp", "2", "--json"],
            "",
        );
        let ran: Json = serde_json::from_slice(&output.stdout).unwrap();
        let seed = ran["seed"].as_u64().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("--seed {seed}")));
        assert!(seed < 1 << 53);
        (seed, ran["text"].clone())
    };
    let ((seed, text), other) = (drawn(), drawn());
    assert_ne!(seed, other.0);
    let again = json_of(
        folder.path(),
        &["run", "m", "-p", "hello", "-n", "12", "--seed", &seed.to_string(), "--temp", "2"],
    );
    assert_eq!(again["text"], text);
    let made = json_of(folder.path(), &["quantize", "m", "-o", "o.gguf", "--method", "rtn", "--seed", "-1"]);
    let card = json_of(folder.path(), &["inspect", "o.gguf"])["card"].clone();
    assert_eq!(made["seed"], card["seed"]);
    for (arguments, word) in [
        (&["run", "m", "-p", "x", "-n", "-3"][..], "-1: until the end"),
        (&["chat", "m", "-n", "-7"], "-1: until the end"),
        (&["run", "m", "-p", "x", "-n", "1.5"], "-1: until the end"),
        (&["run", "m", "-p", "x", "--seed", "-2"], "-1: a random one"),
        (&["quantize", "m", "-o", "x.gguf", "--seed", "-5"], "-1: a random one"),
        (&["run", "m", "-p", "x", "--top-k", "-1"], "whole number from 0"),
        (&["run", "m", "-p", "x", "-c", "-1"], "whole number from 0"),
        (&["chat", "m", "--ctx", "-1"], "whole number from 0"),
        (&["eval", "m", "--text", "t", "--chunks", "-1"], "whole number from 0"),
        (&["eval", "m", "--text", "t", "--ctx", "-512"], "whole number from 0"),
        (&["quantize", "m", "-o", "x.gguf", "--calib-tokens", "-1"], "whole number from 0"),
        (&["quantize", "m", "-o", "x.gguf", "--own-tokens", "-1"], "whole number from 0"),
        (&["quantize", "m", "-o", "x.gguf", "--memory", "-1"], "such as 3.9GiB"),
        (&["quantize", "m", "-o", "x.gguf", "--bpw", "-4"], "above 0"),
        (&["bench", "m", "-p", "-1"], "whole number from 0"),
        (&["bench", "m", "-d", "-1"], "whole number from 0"),
        (&["bench", "m", "-r", "-1"], "-1"),
        (&["run", "m", "-p", "x", "-t", "-1"], "-1"),
        (&["logits", "m", "--tokens", "-1"], "-1"),
    ] {
        let (status, error) = run(folder.path(), arguments);
        assert_eq!(status, 2, "{arguments:?}: {error}");
        assert!(error.contains(word) && !error.contains("unexpected argument"), "{arguments:?}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_no_text_is_named() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bad = OsStr::from_bytes(b"caf\xe9\x1b[2J");
    let output =
        Command::new(env!("CARGO_BIN_EXE_kvant")).args(["run", "demo", "-p"]).arg(bad).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("UTF-8") && error.contains("argument 4, `caf"), "{error}");
    assert!(!has_raw(&output.stderr), "{error:?}");
}

#[test]
fn nothing_from_a_file_acts_on_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut model = Tiny::new();
    let extra = format!("x{ESCAPE}\n\u{9b}31m\u{202e}\u{7f}");
    model.tensors.push((extra.clone(), "F32", vec![4], vec![0; 16]));
    model.config.insert(format!("k{ESCAPE}"), json!(format!("v{ESCAPE}\u{9b}\u{202e}")));
    model.write(&at.join("m"));
    // A GGUF file whose metadata contains such a key and value. The new names have the same length as the old names, so
    // that no offset changes.
    model.tensors.pop();
    model.write(&at.join("plain"));
    json_of(at, &["convert", "plain", "-o", "plain.gguf"]);
    let mut bytes = std::fs::read(at.join("plain.gguf")).unwrap();
    for (from, to) in [
        (&b"general.file_type"[..], &b"general.\x1b]0;ow\x07\xc2\x9b"[..]),
        (b"blk.0.ffn_down", b"blk.0.\x1b[2J\n\x7fwn"),
    ] {
        assert_eq!(from.len(), to.len());
        let place = bytes.windows(from.len()).position(|w| w == from).expect("the name is there");
        bytes[place..][..to.len()].copy_from_slice(to);
    }
    std::fs::write(at.join("hostile.gguf"), bytes).unwrap();
    model
        .tokenizer_config
        .insert("chat_template".into(), json!("{{ raise_exception('a\u{1b}]0;x\u{7}\u{9b}b') }}"));
    model.write(&at.join("raises"));
    model.tokenizer_config.insert("chat_template".into(), json!("{{ \u{1b}[2J }}"));
    model.write(&at.join("broken"));
    let missing = "no\u{1b}[2Jsuch\u{9b}";
    for arguments in [
        &["inspect", "m"][..],
        &["inspect", "hostile.gguf"],
        &["convert", "m", "-o", "m.gguf"],
        &["quantize", "hostile.gguf", "-o", "q.gguf", "--method", "rtn", "-v"],
        &["chat", "hostile.gguf"],
        &["chat", "raises"],
        &["chat", "broken"],
        &["inspect", missing],
        &["run", "plain", "-p", "x", missing],
        &[missing],
        &["quantize", "plain", "-o", "q.gguf", "--method", missing],
        &["tokenize", "plain", "--", "\u{1b}[2J\u{9b}\u{202e}"],
        &["--json", "inspect", "m"],
        &["--json", "inspect", "hostile.gguf"],
        &["--json", "tokenize", "plain", "--", "\u{1b}[2J\u{9b}\u{202e}\u{7f}"],
    ] {
        let output = kvant(at, arguments, "hi\n");
        let status = output.status.code();
        assert!(matches!(status, Some(0..=2)), "{arguments:?}: {status:?}");
        for stream in [&output.stdout, &output.stderr] {
            assert!(!has_raw(stream), "{arguments:?}: {:?}", String::from_utf8_lossy(stream));
        }
        assert!(output.stdout.len() + output.stderr.len() > 0, "{arguments:?} says nothing");
    }
    // JSON keeps the values unchanged. In a list, a name fits on one line.
    let inspected = json_of(at, &["inspect", "m"]);
    assert!(inspected["tensors"].as_array().unwrap().iter().any(|t| t["name"] == extra.as_str()));
    let listed = kvant(at, &["inspect", "m"], "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("x\\u{1b}]0;owned\\u{7}\\u{a}\\u{9b}31m\\u{202e}\\u{7f}"), "{listed}");
}

/// A model with random weights generates random bytes. Some of them control terminals.
#[test]
fn answers_are_shown_and_json_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let flags = [
        "run", "m", "-p", "hello", "-n", "400", "--temp", "9", "--top-k", "0", "--top-p", "1", "--min-p", "0",
    ];
    let exact = json_of(folder.path(), &flags)["text"].as_str().unwrap().to_owned();
    assert!(has_raw(exact.as_bytes()), "the answer has nothing to escape");
    let shown = kvant(folder.path(), &flags, "").stdout;
    let mut expected = String::new();
    for c in exact.chars() {
        let acts = c.is_control() && c != '\n' && c != '\t';
        if acts { expected.extend(c.escape_unicode()) } else { expected.push(c) }
    }
    assert_eq!(String::from_utf8(shown).unwrap(), expected + "\n");
}

#[test]
fn an_error_has_a_bounded_length() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut model = Tiny::new();
    model.write(&at.join("dims"));
    let shape = "1,".repeat(1 << 18);
    let header = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{shape}1],\"data_offsets\":[0,4]}}}}");
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    std::fs::write(at.join("dims/model.safetensors"), file).unwrap();
    let error = fault(at, &["inspect", "dims"], &["dimensions", "more"]);
    assert!(error.len() < 400, "{error}");
    // A long tensor name, and a long error message of a template.
    let long = "\u{1b}".repeat(20_000);
    model.tensors.push((long.clone(), "F32", vec![4], vec![0; 16]));
    model.tokenizer_config.insert(
        "chat_template".into(),
        json!(format!("{{{{ raise_exception('{}') }}}}", "x".repeat(50_000))),
    );
    model.write(&at.join("long"));
    for arguments in [&["convert", "long", "-o", "long.gguf"][..], &["chat", "long"], &[&long[..1000]]] {
        let (status, error) = run(at, arguments);
        assert!((1..=2).contains(&status), "{arguments:?}: {error}");
        assert!(error.len() <= 4096, "{} bytes", error.len());
    }
}

/// Starts a chat with piped stdin and stdout. Returns after the first answer, when the chat waits for the next line.
#[cfg(unix)]
fn waiting(folder: &Path, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // After an answer, the signal handlers are installed, and the chat waits for the next line.
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    out.read_until(b'\n', &mut Vec::new()).unwrap();
    (child, out)
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Returns the exit status. Panics if the program does not end within a time that only a hang exceeds.
#[cfg(unix)]
fn ended(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("still there");
}

#[cfg(unix)]
#[test]
fn a_chat_that_waits_leaves() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    for signals in [&["-TERM"][..], &["-HUP"], &["-INT", "-INT"]] {
        let (mut child, _out) = waiting(folder.path(), &["chat", "m", "-n", "1"]);
        for name in signals {
            std::thread::sleep(Duration::from_millis(200));
            signal(&child, name);
        }
        assert_eq!(ended(&mut child).code(), Some(130), "{signals:?}");
    }
    // After the next line, the chat does not count the earlier Ctrl-C.
    let (mut child, mut out) = waiting(folder.path(), &["chat", "m", "-n", "1"]);
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(200));
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    out.read_until(b'\n', &mut Vec::new()).unwrap();
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert_eq!(ended(&mut child).code(), Some(0));
}

/// The first Ctrl-C stops an answer, and the conversation continues. SIGTERM ends the program.
#[cfg(unix)]
#[test]
fn an_answer_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Tiny::new();
    model.config["max_position_embeddings"] = json!(1 << 20);
    // Without an EOS token, no token ends the answer.
    model.tokenizer_config.remove("eos_token");
    model.write(&folder.path().join("m"));
    let flags = ["chat", "m", "-n", "-1", "-c", "1000000", "--temp", "0"];
    let begin = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(flags)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
        out.read_exact(&mut [0]).unwrap();
        (child, out)
    };
    let (mut child, mut out) = begin();
    let reader = std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the first press ends the program");
    drop(child.stdin.take());
    assert_eq!(ended(&mut child).code(), Some(0));
    reader.join().unwrap().unwrap();
    let (mut child, mut out) = begin();
    let reader = std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    signal(&child, "-TERM");
    assert_eq!(ended(&mut child).code(), Some(130));
    reader.join().unwrap().unwrap();
}

/// Each signal ends a run like Ctrl-C. The work is kept, so that the same command can continue it.
#[cfg(unix)]
#[test]
fn work_ends_by_every_signal_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["quantize", "demo", "-o", "o.gguf", "--calib-tokens", "8192", "--own-tokens", "0"];
    for name in ["-TERM", "-HUP", "-INT"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(arguments)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program prints its work folder before it starts the work.
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        signal(&child, name);
        assert_eq!(ended(&mut child).code(), Some(130), "{name}");
        assert!(
            folder.path().join("o.gguf.work/key").exists() && !folder.path().join("o.gguf").exists(),
            "{name}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn full_and_closed_streams_are_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    let shell = |line: &str| {
        let line = line.replace("kvant", env!("CARGO_BIN_EXE_kvant"));
        let output = Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (line, expected) in [
        ("kvant inspect missing 2>/dev/full", 1),
        ("kvant inspect missing 2>&-", 1),
        ("kvant --wrong 2>/dev/full", 2),
        ("echo hello | kvant chat m -n 1 2>/dev/full >/dev/null", 0),
        ("echo hello | kvant chat m -n 1 2>&- >/dev/null", 0),
        ("kvant chat m -n 1 <&- 2>/dev/null", 0),
        ("kvant run m -p x -n 2 --seed -1 2>/dev/full", 0),
        ("kvant quantize m -o o.gguf --method rtn 2>/dev/full", 0),
        ("kvant inspect m >/dev/full", 1),
        ("kvant inspect m --json >/dev/full 2>/dev/full", 1),
    ] {
        let (status, error) = shell(line);
        assert_eq!(status, Some(expected), "{line}: {error}");
        assert!(!error.contains("panic"), "{line}: {error}");
    }
}

/// With less and less memory, the program prints a message and returns an exit status. No signal ends it.
#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_memory_is_told() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    // The system ends a program whose file does not fit.
    let file = std::fs::metadata(env!("CARGO_BIN_EXE_kvant")).unwrap().len() / 1024;
    for command in [
        "chat m -n 1",
        "quantize m -o o.gguf --force --method rtn",
        "convert m -o c.gguf --force",
        "doctor",
        "run demo -p x -n 1",
    ] {
        for more in [1_000, 5_000, 11_000, 17_000, 23_000, 31_000, 61_000, 101_000] {
            let kilobytes = file + more;
            let line = format!(
                "ulimit -v {kilobytes}; echo hi | RUST_BACKTRACE=1 exec {} {command}",
                env!("CARGO_BIN_EXE_kvant")
            );
            let output = Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            // The loader fails with status 127 if there is too little memory for the program file.
            assert!(
                matches!(output.status.code(), Some(0 | 1 | 127)),
                "{command}, {kilobytes}: {:?} {error}",
                output.status
            );
            assert!(output.status.success() || !error.is_empty(), "{command}, {kilobytes} says nothing");
            assert!(error.len() <= 8192, "{error}");
        }
    }
}

/// With one thread, no command waits for itself. The largest tensors of the demo model are hashed in pieces.
#[test]
fn one_thread_suffices() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        "convert demo -o c.gguf -t 1",
        "quantize demo -o q.gguf -t 1 --method rtn",
        "compare demo --formats q8_0 --chunks 1 -t 1",
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(command.split(' '))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(120) {
                child.kill().unwrap();
                panic!("{command} does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(child.wait().unwrap().success(), "{command}");
    }
}
