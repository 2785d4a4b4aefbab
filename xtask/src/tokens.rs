//! Compares token ids with those that llama.cpp recorded, measures the speed of tokenizers, and gives the ids of texts to
//! other programs.
//!
//! llama.cpp's source has vocabularies (`ggml-vocab-NAME.gguf`), most of them with texts (`.inp`) and their ids
//! (`.out`). The project may not contain these vocabularies. `tests/golden/tokens` has llama.cpp's ids of the project's
//! own texts.

use clap::Args;
use kvant::io::{Limits, open};
use kvant::model::{Special, Tokenizer};
use serde_json::{Value as Json, json};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// Flags of `cargo xtask tokens`.
#[derive(Args)]
pub struct Tokens {
    /// Folders with ggml-vocab-*.gguf: counts the recorded ids that are reproduced
    #[arg(long, num_args = 1..)]
    vectors: Vec<PathBuf>,
    /// Models whose speed on one thread is measured with --text
    #[arg(long, num_args = 1.., requires = "text")]
    speed: Vec<PathBuf>,
    /// Texts for --speed
    #[arg(long, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Model that encodes texts from stdin: one JSON text a line, one list of ids a line
    #[arg(long)]
    ids: Option<PathBuf>,
    /// With --ids: BOS and EOS are added, and control tokens are recognized
    #[arg(long)]
    special: bool,
}

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";
const PLAIN: Special = Special { add: false, parse: false };

/// Runs the command. Returns the faults as texts.
pub fn run(root: &Path, arguments: &Tokens) -> Vec<String> {
    let mut faults = Vec::new();
    for folder in &arguments.vectors {
        vectors(root, folder, &mut faults);
    }
    for model in &arguments.speed {
        if let Err(fault) = speed(model, &arguments.text) {
            faults.push(fault);
        }
    }
    if let Some(model) = &arguments.ids
        && let Err(fault) = ids(model, arguments.special)
    {
        faults.push(fault);
    }
    faults
}

fn tokenizer(path: &Path) -> Result<Tokenizer, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let checkpoint = open(path, &Limits::default()).map_err(|e| fault(&e))?;
    let tokenizer = Tokenizer::from_meta(checkpoint.meta()).map_err(|e| fault(&e))?;
    tokenizer.ok_or_else(|| fault(&"no tokenizer"))
}

/// The texts of an `.inp` file with the ids of its `.out` file.
fn recorded(path: &Path) -> Option<Vec<(String, Json)>> {
    let beside = |ending: &str| std::fs::read_to_string(format!("{}{ending}", path.display())).ok();
    let (texts, lines) = (beside(".inp")?, beside(".out")?);
    let ids = lines.lines().map(|line| {
        line.split_whitespace()
            .map(|id| id.parse::<u32>())
            .collect::<Result<Vec<u32>, _>>()
            .map(|ids| json!(ids))
    });
    let ids: Vec<Json> = ids.collect::<Result<_, _>>().ok()?;
    Some(texts.split(SEPARATOR).map(str::to_owned).zip(ids).collect())
}

/// Counts the recorded ids that each vocabulary of a folder reproduces.
fn vectors(root: &Path, folder: &Path, faults: &mut Vec<String>) {
    let golden = |name: &str| -> Json {
        let bytes = std::fs::read(root.join("tests/golden/tokens").join(name)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    };
    let strings = golden("strings.json");
    let strings: Vec<&str> = strings.as_array().into_iter().flatten().filter_map(|s| s[1].as_str()).collect();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return faults.push(format!("{}: not a folder", folder.display()));
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "gguf"));
    paths.sort();
    for path in paths {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = stem.trim_start_matches("ggml-vocab-");
        let known = golden(&format!("{name}.json"));
        let vectors = recorded(&path).unwrap_or_default();
        let plain = known["plain"].as_array().cloned().unwrap_or_default();
        let tokenizer = match tokenizer(&path) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                faults.push(format!("{name}: 0 of {} vectors: {error}", vectors.len()));
                continue;
            }
        };
        let same = |text: &str, special: Special, expected: &Json| {
            tokenizer.encode(text, special).is_ok_and(|ids| json!(ids) == *expected)
        };
        let right = vectors.iter().filter(|(text, ids)| same(text, PLAIN, ids)).count();
        let mut strings_right = [0; 3];
        for (index, (text, ids)) in strings.iter().zip(&plain).enumerate() {
            let key = index.to_string();
            strings_right[0] += usize::from(same(text, PLAIN, ids));
            let parsed = known["parsed"].get(&key).unwrap_or(ids);
            strings_right[1] += usize::from(same(text, Special { add: false, parse: true }, parsed));
            let around = |part: &str| known[part].as_array().cloned().unwrap_or_default();
            let list = [around("prefix"), ids.as_array().cloned().unwrap_or_default(), around("suffix")];
            let added = known["added"].get(&key).cloned().unwrap_or_else(|| list.concat().into());
            // Here an empty text has no ids, also where llama.cpp adds BOS.
            let empty = text.is_empty();
            strings_right[2] += usize::from(empty || same(text, Special { add: true, parse: false }, &added));
        }
        let all = plain.len().min(strings.len());
        let line = format!(
            "{name}: {right} of {} vectors; own texts {} plain, {} parsed, {} with BOS and EOS, of {all}",
            vectors.len(),
            strings_right[0],
            strings_right[1],
            strings_right[2]
        );
        println!("{line}");
        if right < vectors.len() || strings_right.iter().any(|n| *n < all) {
            faults.push(line);
        }
    }
}

/// Processor time of this thread, so that other programs of the machine do not count. Where the system does not tell it,
/// this is the time of day.
fn processor_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).filter(|n| *n > 0.0);
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(0.0, |time| time.as_secs_f64());
    nanoseconds.map_or_else(now, |n| n / 1e9)
}

/// Measures the speed of a tokenizer.
fn speed(model: &Path, texts: &[PathBuf]) -> Result<(), String> {
    let tokenizer = tokenizer(model)?;
    for path in texts {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut best = f64::INFINITY;
        let mut count = 0;
        for _ in 0..3 {
            let begin = processor_seconds();
            count = tokenizer.encode(&text, PLAIN).map_err(|e| e.to_string())?.len();
            best = best.min(processor_seconds() - begin);
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rate = text.len() as f64 / 1e6 / best;
        println!("{}, {}: {count} tokens, {rate:.1} MB/s", name(model), name(path));
    }
    Ok(())
}

/// Encodes the texts of stdin.
fn ids(model: &Path, special: bool) -> Result<(), String> {
    let tokenizer = tokenizer(model)?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let text: String = serde_json::from_str(&line).map_err(|e| e.to_string())?;
        let ids = match tokenizer.encode(&text, Special { add: special, parse: special }) {
            Ok(ids) => json!(ids),
            Err(error) => json!(error.to_string()),
        };
        writeln!(out, "{ids}").map_err(|e| e.to_string())?;
    }
    Ok(())
}
