//! Tests the files that the program writes, and its work folder. A wrong output path is refused before the work. A file
//! is complete or does not exist. The program never writes through a link, and never loses a file without an error.
#![cfg(unix)]

mod tiny;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tiny::Tiny;

/// Creates a folder with a model `m`, the same model as `m.gguf`, and a text.
fn scene() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    Tiny::new().write(&root.path().join("m"));
    fs::write(root.path().join("text"), "hello world ".repeat(600)).unwrap();
    done(root.path(), &["convert", "m", "-o", "m.gguf"]);
    root
}

/// Runs the program in `folder`. Kills a program that hangs and fails the test.
fn run<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{:?} hangs", arguments.iter().map(|a| a.as_ref().to_owned()).collect::<Vec<_>>());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must end with status 1, without a result, and with an error that contains each of `words`.
fn refused<S: AsRef<OsStr>>(folder: &Path, arguments: &[S], words: &[&str]) {
    let output = run(folder, arguments);
    let error = text(&output.stderr);
    let arguments: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy()).collect();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}: refused after the work");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: no {word:?} in {error}");
    }
}

/// Runs a command whose output path cannot be an output. The command must end with status 2.
fn impossible(folder: &Path, arguments: &[&str], word: &str) {
    let output = run(folder, arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.contains("cannot be an output") && error.contains(word), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}: refused after the work");
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn names(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Returns each command that writes a file. An entry holds the command without the output path, the output path, and
/// the file that is checked: a GGUF file, a card, a NumPy file, a CSV file, and importance files of both formats.
fn commands() -> Vec<(Vec<&'static str>, &'static str, &'static str)> {
    let quantize = vec!["quantize", "m.gguf", "--method", "rtn", "-o"];
    vec![
        (vec!["convert", "m", "-o"], "out.gguf", "out.gguf"),
        (quantize.clone(), "out.gguf", "out.gguf"),
        (quantize, "out.gguf", "out.gguf.card.json"),
        (vec!["logits", "m.gguf", "--tokens", "1,2", "--npy"], "out.npy", "out.npy"),
        (
            vec!["compare", "m.gguf", "--formats", "q4_0", "--text", "text", "-q", "--csv"],
            "out.csv",
            "out.csv",
        ),
        (vec!["imatrix", "m.gguf", "--text", "text", "-o"], "out.dat", "out.dat"),
        (vec!["imatrix", "m.gguf", "--text", "text", "-o"], "out.imatrix.gguf", "out.imatrix.gguf"),
    ]
}

#[test]
fn an_existing_file_is_replaced_with_force_only_and_keeps_its_permissions() {
    let root = scene();
    let folder = root.path();
    let before = names(folder).len();
    for (command, name, written) in commands() {
        let path = folder.join(written);
        fs::write(&path, "mine").unwrap();
        let arguments = [&command[..], &[name]].concat();
        refused(folder, &arguments, &[written, "--force"]);
        assert_eq!(fs::read(&path).unwrap(), b"mine", "{command:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        done(folder, &[&arguments[..], &["--force"]].concat());
        assert_ne!(fs::read(&path).unwrap(), b"mine", "{command:?}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640, "{command:?}");
        for left in [name, "out.gguf.card.json"] {
            let _ = fs::remove_file(folder.join(left));
        }
        assert_eq!(names(folder).len(), before, "{command:?} leaves something: {:?}", names(folder));
        // A new output has the same permissions as any other new file.
        done(folder, &arguments);
        fs::write(folder.join("plain"), "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&folder.join("plain")), "{command:?}");
        for left in [name, "out.gguf.card.json", "plain"] {
            let _ = fs::remove_file(folder.join(left));
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_the_work() {
    let root = scene();
    let folder = root.path();
    fs::write(folder.join("victim"), "precious").unwrap();
    for (command, name, written) in commands() {
        let path = folder.join(written);
        let arguments = [&command[..], &[name, "--force"]].concat();
        let refused = |what: &str| {
            refused(folder, &arguments, &[written, "cannot be written"]);
            refused_without_force(folder, &command, name, written);
            assert!(path.symlink_metadata().is_ok(), "{command:?}: {what}");
        };
        for target in ["victim", "nowhere", "/dev/full"] {
            symlink(target, &path).unwrap();
            refused(target);
            fs::remove_file(&path).unwrap();
        }
        fifo(&path);
        refused("a pipe");
        assert!(path.symlink_metadata().unwrap().file_type().is_fifo());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("a folder");
        fs::remove_dir(&path).unwrap();
        assert_eq!(fs::read(folder.join("victim")).unwrap(), b"precious");
        assert!(!folder.join("nowhere").exists());
    }
    for (command, name, _) in commands() {
        for (prefix, suffix) in [("missing/", ""), ("missing/more/", ""), ("", "/"), ("victim/", "")] {
            let output = format!("{prefix}{name}{suffix}");
            impossible(folder, &[&command[..], &[&output]].concat(), name);
        }
    }
    let imatrix = ["imatrix", "m.gguf", "--text", "text", "--force", "-o"];
    for command in [&imatrix[..], &["logits", "m.gguf", "--tokens", "1", "--force", "--npy"]] {
        for output in [".", "..", "m/", "m/."] {
            impossible(folder, &[command, &[output]].concat(), "names a folder");
        }
        for output in ["m", "/dev/full", "/dev/null"] {
            refused(folder, &[command, &[output]].concat(), &["cannot be written"]);
        }
    }
    assert!(!folder.join("out.gguf").exists() && !folder.join("missing").exists());
}

fn refused_without_force(folder: &Path, command: &[&str], name: &str, written: &str) {
    refused(folder, &[command, &[name]].concat(), &[written, "cannot be written"]);
}

#[test]
fn an_output_is_neither_an_input_nor_another_output() {
    let root = scene();
    let folder = root.path();
    let model = fs::read(folder.join("m.gguf")).unwrap();
    symlink("m", folder.join("link")).unwrap();
    symlink(".", folder.join("here")).unwrap();
    fs::hard_link(folder.join("m/model.safetensors"), folder.join("hard.gguf")).unwrap();
    fs::hard_link(folder.join("m.gguf"), folder.join("second.gguf")).unwrap();
    for output in ["m.gguf", "./m.gguf", "m/../m.gguf", "here/m.gguf", "second.gguf"] {
        for command in [&["convert", "m.gguf", "-o"][..], &["quantize", "m.gguf", "--method", "rtn", "-o"]] {
            refused(folder, &[command, &[output, "--force"]].concat(), &["is the same file as"]);
        }
        refused(
            folder,
            &["logits", "m.gguf", "--tokens", "1", "--force", "--npy", output],
            &["is the same file"],
        );
    }
    for output in ["m/model.safetensors", "link/config.json", "hard.gguf"] {
        refused(folder, &["logits", "m", "--tokens", "1", "--force", "--npy", output], &["is the same file"]);
    }
    refused(folder, &["imatrix", "m", "--text", "text", "-o", "text", "--force"], &["is the same file"]);
    for work in ["out.gguf", "out.gguf.card.json", "here/out.gguf", "out.gguf/"] {
        refused(folder, &["quantize", "m.gguf", "-o", "out.gguf", "--work", work], &["is the same file"]);
        assert!(!folder.join("out.gguf").exists() && !folder.join("out.gguf.card.json").exists());
    }
    assert!(fs::read(folder.join("m.gguf")).unwrap() == model);
    // An earlier output inside the model's folder is not a part of the model.
    let again = ["quantize", "m", "-o", "m/small.gguf", "--method", "rtn", "--force"];
    done(folder, &again);
    done(folder, &again);
}

#[test]
fn results_are_printed_before_a_side_output_fails() {
    let root = scene();
    let folder = root.path();
    fifo(&folder.join("pipe"));
    let child = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(["compare", "m.gguf", "--formats", "q4_0", "--text", "pipe", "-q", "--csv", "out.csv"])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // This call returns when the program opens its text: after the check of the output and before the work.
    let mut pipe = fs::File::options().write(true).open(folder.join("pipe")).unwrap();
    fs::write(folder.join("out.csv"), "theirs").unwrap();
    pipe.write_all(&fs::read(folder.join("text")).unwrap()).unwrap();
    drop(pipe);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended.stderr));
    assert!(text(&ended.stdout).contains("q4_0"), "the table is lost");
    assert!(text(&ended.stderr).contains("out.csv"), "{}", text(&ended.stderr));
    assert_eq!(fs::read(folder.join("out.csv")).unwrap(), b"theirs");
}

#[test]
fn any_file_name_is_written_and_json_shows_it() {
    let root = scene();
    let folder = root.path();
    for name in [&b"\xff\xfe.gguf"[..], b"a\nb.gguf", b"-x.gguf", "한.gguf".as_bytes()] {
        let name = OsString::from_vec(name.to_vec());
        let output = Path::new(".").join(&name);
        let quantize: Vec<&OsStr> =
            ["--json", "quantize", "m.gguf", "--method", "rtn", "-o"].map(OsStr::new).to_vec();
        let json = done(folder, &[&quantize[..], &[output.as_os_str()]].concat());
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["output"], *output.to_string_lossy());
        let mut card = name.clone();
        card.push(".card.json");
        assert!(folder.join(&card).is_file());
        let inspected = done(folder, &[OsStr::new("--json"), OsStr::new("inspect"), output.as_os_str()]);
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert!(inspected["card"]["measured"]["threads"].is_u64());
        let npy = OsString::from_vec([output.as_os_str().as_bytes(), b".npy"].concat());
        let logits: Vec<&OsStr> = ["logits", "--tokens", "1", "--npy"].map(OsStr::new).to_vec();
        done(folder, &[&logits[..], &[npy.as_os_str(), output.as_os_str()]].concat());
    }
    // 245 bytes is the longest name that leaves room for the suffix of the card. With one more byte, the program cannot
    // write the card.
    let long = |bytes: usize| format!("{}.gguf", "x".repeat(bytes - 5));
    done(folder, &["quantize", "m.gguf", "--method", "rtn", "-o", &long(245)]);
    refused(folder, &["quantize", "m.gguf", "--method", "rtn", "-o", &long(246)], &["card.json"]);
    done(folder, &["convert", "m", "-o", &long(255)]);
    refused(folder, &["convert", "m", "-o", &long(256)], &["xxx"]);
}

#[test]
fn remains_of_killed_runs_are_cleared() {
    let root = scene();
    let folder = root.path();
    let before = names(folder);
    for (command, name, _) in commands() {
        let remains = folder.join(format!(".{name}.Ab3dEf.part"));
        fs::write(&remains, "half").unwrap();
        done(folder, &[&command[..], &[name]].concat());
        assert!(!remains.exists(), "{command:?}");
        for left in [name, "out.gguf.card.json"] {
            let _ = fs::remove_file(folder.join(left));
        }
        assert_eq!(names(folder), before, "{command:?}");
    }
    // The program does not follow a link whose name is a predictable temporary name.
    fs::write(folder.join("victim"), "precious").unwrap();
    symlink("victim", folder.join("i.dat.part")).unwrap();
    done(folder, &["imatrix", "m.gguf", "--text", "text", "-o", "i.dat"]);
    assert_eq!(fs::read(folder.join("victim")).unwrap(), b"precious");
}

#[test]
fn a_card_beside_a_model_is_small_and_a_regular_file() {
    let root = scene();
    let folder = root.path();
    let card = folder.join("m.gguf.card.json");
    fs::write(folder.join("card"), "{}").unwrap();
    fs::create_dir(folder.join("other")).unwrap();
    fs::write(folder.join("other/secret"), r#"{"secret": 1}"#).unwrap();
    let cases: [(&str, &dyn Fn()); 7] = [
        ("endless", &|| symlink("/dev/zero", &card).unwrap()),
        ("a link to nothing", &|| symlink("nowhere", &card).unwrap()),
        ("a link to elsewhere", &|| symlink("other/../../../etc/hostname", &card).unwrap()),
        ("a pipe", &|| fifo(&card)),
        ("large", &|| fs::File::create(&card).unwrap().set_len(1 << 40).unwrap()),
        ("a folder", &|| fs::create_dir(&card).unwrap()),
        ("no JSON", &|| fs::write(&card, "{").unwrap()),
    ];
    for (what, make) in cases {
        make();
        let output = run(folder, &["--json", "inspect", "m.gguf"]);
        assert!(output.status.success(), "{what}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["card"]["measured"].is_null(), "{what}");
        let error = text(&output.stderr);
        assert!(error.contains("note") && error.contains("m.gguf.card.json"), "{what}: {error}");
        let removed = if card.is_dir() { fs::remove_dir(&card) } else { fs::remove_file(&card) };
        removed.unwrap();
    }
    symlink("card", &card).unwrap();
    assert!(run(folder, &["inspect", "m.gguf"]).stderr.is_empty(), "a link inside the folder is followed");
}

#[test]
fn a_closed_pipe_is_silent_and_a_full_disk_fails() {
    let root = scene();
    let folder = root.path();
    let commands: [&[&str]; 5] = [
        &["inspect", "m.gguf"],
        &["--json", "inspect", "m.gguf"],
        &["--help"],
        &["completions", "bash"],
        &["run", "m.gguf", "-p", "hello", "-n", "4"],
    ];
    let start = |arguments: &[&str], stdout: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = start(arguments, writer.into()).wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(141), "{arguments:?}: {}", text(&ended.stderr));
        assert_eq!(text(&ended.stderr), "", "{arguments:?}");
        if let Ok(full) = fs::File::options().write(true).open("/dev/full") {
            let ended = start(arguments, full.into()).wait_with_output().unwrap();
            assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
            assert!(
                text(&ended.stderr).contains("standard output"),
                "{arguments:?}: {}",
                text(&ended.stderr)
            );
        }
    }
    // The program writes the file even if stdout is a closed pipe.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = start(&["logits", "m.gguf", "--tokens", "1", "--npy", "out.npy"], writer.into());
    assert_eq!(ended.wait_with_output().unwrap().status.code(), Some(141));
    assert!(folder.join("out.npy").is_file());
}

/// A work folder `seed` in which at least one of four blocks is solved. Each test continues the work in a copy of this
/// folder.
struct Unfinished {
    root: tempfile::TempDir,
    /// The output of a run without interruption.
    whole: Vec<u8>,
}

impl Unfinished {
    /// Solves only two of the seven linear layers (maps) per block, to save time.
    const COMMAND: [&str; 14] = [
        "quantize",
        "m",
        "-o",
        "w.gguf",
        "--calib",
        "text",
        "--calib-tokens",
        "512",
        "--own-tokens",
        "512",
        "--set",
        "ffn|attn_q|attn_output=bf16",
        "-q",
        "--work",
    ];

    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        Tiny::with(4, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]).write(&folder.join("m"));
        fs::write(folder.join("text"), "hello world ".repeat(600)).unwrap();
        done(folder, &[&Self::COMMAND[..], &["whole"]].concat());
        let whole = fs::read(folder.join("w.gguf")).unwrap();
        fs::remove_file(folder.join("w.gguf")).unwrap();
        fs::remove_file(folder.join("w.gguf.card.json")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
            .args(Self::COMMAND)
            .arg("seed")
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !folder.join("seed/block-0000.unit").exists() {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before its first block was saved");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(folder.join("seed/key").is_file());
        Self { root, whole }
    }

    fn folder(&self) -> &Path {
        self.root.path()
    }

    /// Copies the unfinished work, changes the copy, and runs the command on it. Returns the copy and the output of the
    /// command.
    fn go_on(&self, change: impl FnOnce(&Path), more: &[&str]) -> (PathBuf, Output) {
        let copy = self.folder().join("copy");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir(&copy).unwrap();
        for name in names(&self.folder().join("seed")) {
            fs::copy(self.folder().join("seed").join(&name), copy.join(&name)).unwrap();
        }
        for name in ["w.gguf", "w.gguf.card.json"] {
            let _ = fs::remove_file(self.folder().join(name));
        }
        change(&copy);
        let output = run(self.folder(), &[&Self::COMMAND[..], &["copy"], more].concat());
        (copy, output)
    }

    /// Continues the work. The command must succeed, and its output must be equal to that of a run without
    /// interruption.
    fn ends_well(&self, change: impl FnOnce(&Path), more: &[&str]) {
        let (_, output) = self.go_on(change, more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(fs::read(self.folder().join("w.gguf")).unwrap() == self.whole, "the bytes differ");
    }

    /// Continues the work. The command must end with status 1 and an error that contains `word`. There must be no
    /// output, and no file may be deleted.
    fn fails(&self, word: &str, change: impl Fn(&Path)) {
        let mut before = Vec::new();
        let (copy, output) = self.go_on(
            |copy| {
                change(copy);
                before = names(copy);
            },
            &[],
        );
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{word}: {error}");
        assert!(error.contains(word), "no {word} in {error}");
        assert!(!self.folder().join("w.gguf").exists(), "{word}");
        let after = names(&copy);
        assert!(before.iter().all(|name| after.contains(name)), "{word}: {before:?} became {after:?}");
    }
}

#[test]
fn a_damaged_work_folder_loses_nothing_silently() {
    let work = Unfinished::new();
    links_and_pipes_are_errors_and_stay(&work);
    let files = names(&work.folder().join("seed"));
    assert!(files.iter().any(|name| name == "own-text-0000.tokens"), "{files:?}");
    // Damaged key files.
    for bytes in [&b"\xff\xfe"[..], b"", b"nonsense", &[b'0'; 4096], &[b'0'; 100_000]] {
        work.fails("key", |copy| fs::write(copy.join("key"), bytes).unwrap());
    }
    work.fails("another recipe", |copy| fs::write(copy.join("key"), [b'0'; 64]).unwrap());
    work.fails("the file `key` that names its run is missing", |copy| {
        fs::remove_file(copy.join("key")).unwrap()
    });
    work.fails("key", |copy| {
        fs::remove_file(copy.join("key")).unwrap();
        fs::create_dir(copy.join("key")).unwrap();
    });
    // Every saved file: cut, changed, longer, or exchanged with another file.
    let saved = |name: &&OsString| {
        [".unit", ".tokens", ".sums"].iter().any(|kind| name.to_string_lossy().ends_with(kind))
    };
    // A run reads only the sums that the remaining blocks need.
    let solved = files.iter().filter(|name| name.to_string_lossy().starts_with("block-")).count();
    let read = |name: &&OsString| {
        let name = name.to_string_lossy();
        let block = name.strip_prefix("sensitivity-").and_then(|rest| rest.strip_suffix(".sums"));
        name != "head-input.sums" && block.is_none_or(|block| block.parse::<usize>().unwrap() >= solved)
    };
    for name in files.iter().filter(saved).filter(read) {
        let word = name.to_string_lossy();
        work.fails(&word, |copy| {
            let bytes = fs::read(copy.join(name)).unwrap();
            fs::write(copy.join(name), &bytes[..bytes.len() / 2]).unwrap();
        });
        work.fails(&word, |copy| {
            let mut bytes = fs::read(copy.join(name)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(copy.join(name), bytes).unwrap();
        });
    }
    work.fails("block-0001.unit", |copy| {
        fs::copy(copy.join("block-0000.unit"), copy.join("block-0001.unit")).unwrap();
    });
    work.fails("block-0000.unit", |copy| {
        fs::File::options().write(true).open(copy.join("block-0000.unit")).unwrap().set_len(1 << 40).unwrap();
    });
    work.fails("residual-", |copy| {
        for name in ["residual-0-float.f32", "residual-1-float.f32"] {
            let mut bytes = fs::read(copy.join(name)).unwrap();
            bytes[17] ^= 1;
            fs::write(copy.join(name), bytes).unwrap();
        }
    });
    work.fails("residual-", |copy| {
        ["residual-0-quantized.f32", "residual-1-quantized.f32"]
            .iter()
            .for_each(|name| fs::remove_file(copy.join(name)).unwrap());
    });
    // `--fresh` works in each of these cases, but does not delete files that do not belong to a run.
    work.ends_well(
        |copy| {
            fs::write(copy.join("key"), b"\xff").unwrap();
            fs::write(copy.join("block-0000.unit"), b"\xff").unwrap();
            fs::write(copy.join("notes"), b"mine").unwrap();
        },
        &["--fresh"],
    );
    assert_eq!(names(&work.folder().join("copy")), ["notes"]);
    // Intact work is used, also if there are remains of a killed run. A link under the temporary name of earlier
    // versions is not followed.
    fs::write(work.folder().join("victim"), "precious").unwrap();
    work.ends_well(
        |copy| {
            fs::write(copy.join(".block-0003.unit.Ab3dEf.part"), "half").unwrap();
            symlink("../victim", copy.join("block-0003.unit.part")).unwrap();
        },
        &[],
    );
    assert_eq!(fs::read(work.folder().join("victim")).unwrap(), b"precious");
    assert_eq!(names(&work.folder().join("copy")), ["block-0003.unit.part"]);
}

fn links_and_pipes_are_errors_and_stay(work: &Unfinished) {
    let victim = work.folder().join("victim");
    for name in [
        "key",
        "lock",
        "block-0000.unit",
        "embedding.unit",
        "own-text-0000.tokens",
        "sensitivity-0003.sums",
        "input-float.f32",
        "middle-quantized.f32",
        "residual-0-float.f32",
        "residual-1-quantized.f32",
    ] {
        fs::write(&victim, "precious").unwrap();
        let put = |copy: &Path, make: &dyn Fn(&Path)| {
            let path = copy.join(name);
            if path.symlink_metadata().is_ok() {
                fs::remove_file(&path).unwrap();
            }
            make(&path);
        };
        let kinds: [&dyn Fn(&Path); 3] = [
            &|path| symlink("../victim", path).unwrap(),
            &|path| symlink("../made", path).unwrap(),
            &|path| fifo(path),
        ];
        for make in kinds {
            work.fails(name, |copy| put(copy, make));
            assert!(!work.folder().join("made").exists(), "{name}");
        }
        work.fails(name, |copy| put(copy, &|path| fs::hard_link(&victim, path).unwrap()));
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn a_work_folder_is_a_folder() {
    let root = scene();
    let folder = root.path();
    let quantize = ["quantize", "m.gguf", "-o", "o.gguf", "--calib-tokens", "512", "--own-tokens", "0", "-q"];
    let work = folder.join("o.gguf.work");
    fs::create_dir(folder.join("elsewhere")).unwrap();
    symlink("elsewhere", &work).unwrap();
    refused(folder, &quantize, &["o.gguf.work", "symbolic link"]);
    refused(
        folder,
        &[&quantize[..], &["--work", "o.gguf.work/"]].concat(),
        &["o.gguf.work", "symbolic link"],
    );
    assert!(names(&folder.join("elsewhere")).is_empty());
    fs::remove_file(&work).unwrap();
    fs::write(&work, "mine").unwrap();
    refused(folder, &[&quantize[..], &["--fresh"]].concat(), &["o.gguf.work", "no folder"]);
    assert_eq!(fs::read(&work).unwrap(), b"mine");
    // A method that needs no work folder does not check it.
    done(folder, &["quantize", "m.gguf", "-o", "o.gguf", "--method", "rtn"]);
    assert_eq!(fs::read(&work).unwrap(), b"mine");
}
