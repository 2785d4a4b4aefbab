//! `kvant compare` and `kvant demo`: compare files of one model with 16, 8 and 4 bits.
//!
//! The file of each row runs in a separate process of this program. So the resident memory of this process is the
//! memory that running the file needs.

use crate::arguments::{Common, Compare, CsvFlags, Demo};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output};
use kvant::io::OutputFile;
use kvant::{Alone, Compared, DEMO_TEXT, Error, Model, is_demo, read_text};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Runs `kvant compare`.
pub fn run(common: &Common, arguments: &Compare) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let inputs: Vec<&Path> =
        [Some(&path), arguments.text.as_ref()].into_iter().flatten().map(|p| p.as_path()).collect();
    OutputFile::check_all(arguments.csv.csv.as_deref().as_slice(), &inputs, arguments.csv.force)?;
    let text = match &arguments.text {
        Some(file) => read_text(file)?,
        None if is_demo(&path) => DEMO_TEXT.to_owned(),
        None => return Err(Failure::Usage("--text FILE is needed: quality is measured on a text".into())),
    };
    let model = Model::open(&path)?;
    let job = kvant::Compare {
        formats: arguments.formats.clone(),
        methods: arguments.methods.clone(),
        context: arguments.contexts.ctx,
        contexts: arguments.contexts.chunks,
        ..kvant::Compare::new(&model, &text)
    };
    finish(common, &job, &arguments.csv)
}

/// Runs `kvant demo`.
pub fn demo(common: &Common, arguments: &Demo) -> Result<ExitCode, Failure> {
    OutputFile::check_all(arguments.csv.csv.as_deref().as_slice(), &[], arguments.csv.force)?;
    let model = Model::demo()?;
    let job = kvant::Compare {
        contexts: Some(16),
        sample: Some("Once upon a time".to_owned()),
        ..kvant::Compare::new(&model, DEMO_TEXT)
    };
    finish(common, &job, &arguments.csv)
}

fn finish(common: &Common, job: &kvant::Compare, csv: &CsvFlags) -> Result<ExitCode, Failure> {
    let backend = machine::start(common)?;
    let alone = |path: &Path, prompt: &str, tokens: usize| alone(common, path, prompt, tokens);
    let compared = job.run(&backend, &alone, &Bar::new(common))?;
    // The measurements are printed first, so that they are not lost if the file cannot be written. The file is written
    // even if printing fails because the pipe is closed.
    let printed = output::show(common, &compared, print);
    if let Some(path) = &csv.csv {
        OutputFile::write_whole(path, compared.csv()?.as_bytes(), csv.force)?;
    }
    printed
}

/// Runs a file in a separate process, with the same number of threads and the same instruction set.
fn alone(common: &Common, path: &Path, prompt: &str, tokens: usize) -> Result<Alone, Error> {
    let fault = |reason: &str| Error::Sample { path: path.into(), reason: reason.into() };
    let program =
        std::env::current_exe().map_err(|e| fault(&format!("finding this program's own file: {e}")))?;
    let output = Command::new(program)
        .args(["--isa", &common.isa, "-t", &machine::threads(common).to_string()])
        .args(["run", "--json", "--quiet", "-p", prompt, "-n", &tokens.to_string(), "--temp", "0"])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| fault(&format!("starting a process for one row: {e}")))?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| fault("the process that was started for it failed"))?;
    Ok(Alone {
        peak_rss_bytes: answer["peak_rss_bytes"].as_u64().unwrap_or(0),
        text: answer["text"].as_str().unwrap_or_default().to_owned(),
    })
}

fn print(compared: &Compared) -> Result<(), Failure> {
    output::line(&compared.table())?;
    for row in &compared.rows {
        if let Some(sample) = &row.sample {
            output::line(&format!("\n{} by {}: {}", row.format, row.method, sample.trim()))?;
        }
    }
    if compared.rows.iter().all(|row| row.method == "rtn") {
        output::line(
            "\nAll rows are by rtn, upstream's plain rounding. `kvant quantize` without --method takes auto, which loses \
             less; `kvant compare --methods rtn,auto` shows both.",
        )?;
    }
    Ok(())
}
