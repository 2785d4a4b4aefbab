//! `kvant compare` and `kvant demo`: 16, 8 and 4 bits side by side.
//!
//! Each row is made, opened and measured in a process of its own (this program, called again), so that its resident
//! memory is its own.

use super::eval::{check_context, contexts};
use super::quantize::{file_type, method_named};
use crate::arguments::{Common, Compare, Demo};
use crate::demo_model::{DemoFolder, HELD_OUT, is_demo, temporary_folder};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{open, output};
use comfy_table::{CellAlignment, Table, presets};
use kvant::eval::{Judged, Test, bench, evaluate};
use kvant::io::OutputFile;
use kvant::kernels::KvFormat;
use kvant::model::{Transformer, Weights};
use kvant::quant::Recipe;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Compared {
    rows: Vec<Row>,
}

/// One file type's figures.
#[derive(Clone, Serialize, schemars::JsonSchema)]
struct Row {
    format: String,
    method: &'static str,
    bpw: f64,
    file_bytes: u64,
    size_vs_f16: f64,
    peak_rss_bytes: u64,
    prefill_tps: f64,
    decode_tps: f64,
    ppl: f64,
    kld_mean: f64,
    kld_se: f64,
    top1_agreement: f64,
    /// `kld_mean` as `run` runs the file: with rounded activations, keys and values in f16.
    kld_mean_as_run: f64,
    /// `top1_agreement` of the same.
    top1_agreement_as_run: f64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<String>,
}

/// What is compared, on what.
struct Subject<'a> {
    model: PathBuf,
    text: &'a str,
    formats: &'a [String],
    methods: &'a [String],
    context: usize,
    limit: Option<usize>,
    sample: Option<&'a str>,
}

/// Runs `kvant compare`.
pub fn run(common: &Common, arguments: &Compare) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let csv = arguments.csv.as_deref();
    let inputs: Vec<&Path> =
        [Some(&path), arguments.text.as_ref()].into_iter().flatten().map(|p| p.as_path()).collect();
    output::check(csv.as_slice(), &inputs, arguments.force)?;
    let is_demo = is_demo(&path);
    let demo = if is_demo { Some(DemoFolder::new()?) } else { None };
    let text = match &arguments.text {
        Some(file) => open::text(file)?,
        None if is_demo => HELD_OUT.to_owned(),
        None => return Err(Failure::Usage("--text FILE is needed: quality is measured on a text".into())),
    };
    let subject = Subject {
        model: demo.as_ref().map_or(path, DemoFolder::path),
        text: &text,
        formats: &arguments.formats,
        methods: &arguments.methods,
        context: arguments.ctx,
        limit: arguments.chunks,
        sample: None,
    };
    finish(common, measure(common, &subject)?, csv, arguments.force)
}

/// Runs `kvant demo`.
pub fn demo(common: &Common, arguments: &Demo) -> Result<ExitCode, Failure> {
    let csv = arguments.csv.as_deref();
    output::check(csv.as_slice(), &[], arguments.force)?;
    let folder = DemoFolder::new()?;
    let formats: Vec<String> = ["f16", "q8_0", "q4_k_m", "q4_0"].map(str::to_owned).to_vec();
    let subject = Subject {
        model: folder.path(),
        text: HELD_OUT,
        formats: &formats,
        methods: &["rtn".to_owned()],
        context: 512,
        limit: Some(16),
        sample: Some("Once upon a time"),
    };
    finish(common, measure(common, &subject)?, csv, arguments.force)
}

fn measure(common: &Common, subject: &Subject) -> Result<Compared, Failure> {
    open::start_threads(common)?;
    let backend = open::backend(common)?;
    let source = Weights::new(kvant::io::open(&subject.model, &kvant::io::Limits::default())?)?;
    let tokenizer = open::tokenizer(source.checkpoint().meta(), &subject.model)?;
    let folder = temporary_folder()?;
    // The reference is the model in its own precision; the 16-bit row is compared with it like any other.
    let reference = Transformer::load(&source, backend.clone())?;
    check_context(subject.context, &reference)?;
    let contexts = contexts(&tokenizer, subject.text, subject.context, subject.limit)?;
    let mut rows: Vec<Row> = Vec::new();
    let mut f16_bytes = None;
    for (name, method) in rows_of(subject)? {
        let path = folder.path().join(format!("{name}-{method}.gguf"));
        let bpw = if method == "rtn" {
            let recipe = Recipe::plain(file_type(name)?, &kvant::quant::RoundToNearest);
            let bar = Bar::new(common, &format!("{name}: quantize"));
            kvant::quant::quantize(&source, &recipe, &path, true, &backend, &bar)?.file.bpw
        } else {
            quantized(common, subject, name, method, &path)?
        };
        let weights = Weights::new(kvant::io::open(&path, &kvant::io::Limits::default())?)?;
        let model = Transformer::load(&weights, backend.clone())?;
        let fast = Transformer::load(&weights, open::fast(backend.clone()))?;
        let fast = fast.with_kv_format(KvFormat::F16)?;
        let bar = Bar::new(common, &format!("{name} by {method}: measure"));
        let judged = Judged { model: &model, reference: Some(&reference), as_run: Some(&fast) };
        let quality = evaluate(judged, &contexts, &mut |done, all| bar.step(done, all))?;
        // Quality is the stored values' own, and beside it as run; speed and samples are those of `run`.
        drop(model);
        let tests = [
            Test::Prompt { tokens: subject.context.min(128) },
            Test::Answer { tokens: 32.min(fast.spec().context), depth: 0, sequences: 1 },
        ];
        let speeds = bench(&fast, &tests, 3, &mut |_, _| open::interrupts() == 0)?;
        let entry = std::fs::metadata(&path).map_err(|e| Failure::io(&path, "reading the size of", e))?;
        let file_bytes = entry.len();
        let elements: usize = source.entries().iter().map(|e| e.shape.elements()).sum();
        // What the same model takes in 16 bits, also where that row was not asked for.
        let sixteen = *f16_bytes.get_or_insert(if name == "f16" { file_bytes } else { elements as u64 * 2 });
        let kld_mean_as_run = quality.kld_mean_as_run.unwrap_or_default();
        let (peak_rss_bytes, sample) = alone(common, &path, subject.sample)?;
        rows.push(Row {
            format: name.to_owned(),
            method,
            bpw,
            file_bytes,
            size_vs_f16: file_bytes as f64 / sixteen as f64,
            peak_rss_bytes,
            prefill_tps: speeds[0].tps_median,
            decode_tps: speeds[1].tps_median,
            ppl: quality.ppl,
            kld_mean: quality.kld_mean.unwrap_or_default(),
            kld_se: quality.kld_se.unwrap_or_default(),
            top1_agreement: quality.top1_agreement.unwrap_or_default(),
            kld_mean_as_run,
            top1_agreement_as_run: quality.top1_agreement_as_run.unwrap_or_default(),
            verdict: verdict(kld_mean_as_run),
            sample,
        });
    }
    Ok(Compared { rows })
}

/// File types and methods of the rows. Where a file type has no codes, there is nothing for a method to choose.
fn rows_of<'a>(subject: &Subject<'a>) -> Result<Vec<(&'a str, &'static str)>, Failure> {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for name in subject.formats {
        let has_codes = file_type(name)?.format().grid().is_some();
        for method in subject.methods {
            let method = if has_codes { method_named(method)?.name() } else { "rtn" };
            if !rows.contains(&(name, method)) {
                rows.push((name, method));
            }
        }
    }
    Ok(rows)
}

/// Makes a file by a method that looks at more than weights, in a process of its own. Says its bits a weight.
fn quantized(
    common: &Common,
    subject: &Subject,
    name: &str,
    method: &str,
    path: &Path,
) -> Result<f64, Failure> {
    let mut command = itself(common)?;
    command.args(["quantize", "--json", "--format", name, "--method", method, "-o"]).arg(path);
    if common.quiet {
        command.arg("--quiet");
    }
    let answer = answer_of(command.arg(&subject.model), &format!("{name} by {method}: quantize"))?;
    Ok(answer["bpw"].as_f64().unwrap_or(0.0))
}

/// This program, to be started again on the same threads and instruction set.
fn itself(common: &Common) -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::io(Path::new("kvant"), "finding this program's own file", e))?;
    let mut command = Command::new(program);
    command.args(["--isa", &common.isa, "-t", &open::threads(common).to_string()]);
    Ok(command)
}

/// Runs a process to its end and returns the JSON that it prints.
fn answer_of(command: &mut Command, what: &str) -> Result<serde_json::Value, Failure> {
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|e| {
            Failure::io(Path::new(command.get_program()), "starting a process for one row", e)
        })?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| Failure::Fault(format!("{what}: the process that was started for it failed")))
}

/// A word for a mean KL divergence, in nats a token.
fn verdict(kld: f64) -> &'static str {
    match kld {
        x if x < 0.001 => "same",
        x if x < 0.01 => "very close",
        x if x < 0.05 => "close",
        x if x < 0.2 => "noticeable",
        _ => "damaged",
    }
}

/// Peak memory and a sample of a process that does nothing but run this file.
fn alone(common: &Common, path: &Path, prompt: Option<&str>) -> Result<(u64, Option<String>), Failure> {
    let count = if prompt.is_some() { "48" } else { "1" };
    let mut command = itself(common)?;
    command.args(["run", "--json", "--quiet", "-p", prompt.unwrap_or("Hello"), "-n", count, "--temp", "0"]);
    let answer = answer_of(command.arg(path), &format!("{}: a sample", path.display()))?;
    let memory = answer["peak_rss_bytes"].as_u64().unwrap_or(0);
    let text = answer["text"].as_str().unwrap_or_default();
    Ok((memory, prompt.map(|p| format!("{p}{text}"))))
}

fn finish(common: &Common, compared: Compared, csv: Option<&Path>, force: bool) -> Result<ExitCode, Failure> {
    // The measurements are printed before a file can fail. A closed pipe does not keep the file from being written.
    let printed = print(common, &compared);
    if let Some(path) = csv {
        OutputFile::write_whole(path, to_csv(&compared.rows).as_bytes(), force)?;
    }
    printed?;
    Ok(ExitCode::SUCCESS)
}

fn print(common: &Common, compared: &Compared) -> Result<(), Failure> {
    if common.json {
        return output::json(compared);
    }
    output::line(&table(&compared.rows).to_string())?;
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

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "format",
        "method",
        "bpw",
        "file",
        "memory",
        "prompt tok/s",
        "answer tok/s",
        "perplexity",
        "mean KLD",
        "KLD as run",
        "top-1 as run",
        "verdict",
    ]);
    for row in rows {
        table.add_row([
            row.format.clone(),
            row.method.to_owned(),
            format!("{:.2}", row.bpw),
            output::size(row.file_bytes),
            output::size(row.peak_rss_bytes),
            format!("{:.0}", row.prefill_tps),
            format!("{:.0}", row.decode_tps),
            format!("{:.4}", row.ppl),
            format!("{:.5} ± {:.5}", row.kld_mean, row.kld_se),
            format!("{:.5}", row.kld_mean_as_run),
            format!("{:.1} %", row.top1_agreement_as_run * 100.0),
            row.verdict.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(9) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn to_csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "format,method,bpw,file_bytes,size_vs_f16,peak_rss_bytes,prefill_tps,decode_tps,ppl,kld_mean,kld_se,top1_agreement,kld_mean_as_run,top1_agreement_as_run,verdict\n",
    );
    for r in rows {
        text.push_str(&format!(
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
            r.format,
            r.method,
            r.bpw,
            r.file_bytes,
            r.size_vs_f16,
            r.peak_rss_bytes,
            r.prefill_tps,
            r.decode_tps,
            r.ppl,
            r.kld_mean,
            r.kld_se,
            r.top1_agreement,
            r.kld_mean_as_run,
            r.top1_agreement_as_run,
            r.verdict
        ));
    }
    text
}
