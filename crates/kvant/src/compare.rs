//! The job `compare`: 16, 8 and 4 bits of one model side by side.

use crate::demo::temporary_folder;
use crate::evaluate::contexts;
use crate::opened::check_context;
use crate::quantize::{file_type, method_named};
use crate::{Error, Model, Quantize, RunSettings};
use kvant_eval::{Judged, Progress, Test, bench, evaluate};
use kvant_kernels::Backend;
use kvant_report::{Column, size};
use serde::Serialize;
use std::path::Path;

/// Quantizes a model in several ways and measures each: size, memory, speed, quality.
pub struct Compare<'a> {
    /// The model.
    pub model: &'a Model,
    /// The text that quality is measured on.
    pub text: &'a str,
    /// File types.
    pub formats: Vec<String>,
    /// Methods, a row of each file type for each.
    pub methods: Vec<String>,
    /// Tokens of a context.
    pub context: usize,
    /// Contexts at most.
    pub contexts: Option<usize>,
    /// A prompt that each row continues.
    pub sample: Option<String>,
}

/// What a process comes to that does nothing but run one file.
pub struct Alone {
    /// Its largest resident memory.
    pub peak_rss_bytes: u64,
    /// The answer to the prompt.
    pub text: String,
}

/// Runs a file in a process of its own, so that its memory is its own: greedily, a prompt and so many tokens.
pub type RunAlone<'a> = &'a dyn Fn(&Path, &str, usize) -> Result<Alone, Error>;

/// A table of file types and methods.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Compared {
    /// Its rows.
    pub rows: Vec<CompareRow>,
}

/// One file type's figures.
#[derive(Clone, Serialize, schemars::JsonSchema)]
pub struct CompareRow {
    /// The file type.
    pub format: String,
    /// The method.
    pub method: &'static str,
    /// Bits of tensor data for each weight.
    pub bpw: f64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The same as a share of 16 bits.
    pub size_vs_f16: f64,
    /// The largest resident memory of a process that runs the file.
    pub peak_rss_bytes: u64,
    /// Tokens of a prompt a second.
    pub prefill_tps: f64,
    /// Tokens of an answer a second.
    pub decode_tps: f64,
    /// Perplexity.
    pub ppl: f64,
    /// Mean KL divergence from the model in its own precision.
    pub kld_mean: f64,
    /// Its standard error.
    pub kld_se: f64,
    /// Share of positions at which both prefer the same token.
    pub top1_agreement: f64,
    /// `kld_mean` as `run` runs the file: with rounded activations, keys and values in f16.
    pub kld_mean_as_run: f64,
    /// `top1_agreement` of the same.
    pub top1_agreement_as_run: f64,
    /// A word for `kld_mean_as_run`.
    pub verdict: &'static str,
    /// What the file makes of the sample's prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

impl<'a> Compare<'a> {
    /// `f16`, `q8_0`, `q4_k_m` and `q4_0` by upstream's rounding.
    pub fn new(model: &'a Model, text: &'a str) -> Self {
        Self {
            model,
            text,
            formats: ["f16", "q8_0", "q4_k_m", "q4_0"].map(str::to_owned).to_vec(),
            methods: vec!["rtn".to_owned()],
            context: 512,
            contexts: None,
            sample: None,
        }
    }

    /// Does it. `alone` runs a file in a process of its own.
    ///
    /// # Errors
    /// File types and methods that are not known, a text shorter than a context, what quantizing and measuring say.
    pub fn run(
        &self,
        backend: &Backend,
        alone: RunAlone,
        progress: &dyn Progress,
    ) -> Result<Compared, Error> {
        let (weights, tokenizer) = (self.model.weights(), self.model.tokenizer()?);
        let folder = temporary_folder()?;
        // The reference is the model in its own precision; the 16-bit row is compared with it like any other.
        let reference = self.model.load(backend.clone(), RunSettings::EXACT)?;
        check_context(self.context, &reference)?;
        let contexts = contexts(&tokenizer, self.text, self.context, self.contexts)?;
        let elements: usize = weights.entries().iter().map(|e| e.shape.elements()).sum();
        let (mut rows, mut f16_bytes) = (Vec::new(), None);
        for (format, method) in self.pairs()? {
            let path = folder.path().join(format!("{format}-{method}.gguf"));
            progress.begin(&format!("{format} by {method}: quantize"));
            let quantize = Quantize {
                format: format.to_owned(),
                method: Some(method.to_owned()),
                ..Quantize::new(self.model, &path)
            };
            let bpw = quantize.run(backend, &Silent(progress))?.bpw;
            let file = Model::open(&path)?;
            let model = file.load(backend.clone(), RunSettings::EXACT)?;
            let fast = file.load(backend.clone(), RunSettings::default())?;
            progress.begin(&format!("{format} by {method}: measure"));
            let judged = Judged { model: &model, reference: Some(&reference), as_run: Some(&fast) };
            let quality = evaluate(judged, &contexts, progress)?;
            // Quality is the stored values' own, and beside it as run; speed and samples are those of `run`.
            drop(model);
            let tests = [
                Test::Prompt { tokens: self.context.min(128) },
                Test::Answer { tokens: 32.min(fast.spec().context), depth: 0, sequences: 1 },
            ];
            let speeds = bench(&fast, &tests, 3, &Silent(progress))?;
            let entry = std::fs::metadata(&path);
            let file_bytes = entry.map_err(|e| Error::io(&path, "reading the size of", e))?.len();
            // What the same model takes in 16 bits, also where that row was not asked for.
            let sixteen =
                *f16_bytes.get_or_insert(if format == "f16" { file_bytes } else { elements as u64 * 2 });
            let kld_mean_as_run = quality.kld_mean_as_run.unwrap_or_default();
            let run = match &self.sample {
                Some(prompt) => alone(&path, prompt, 48)?,
                None => alone(&path, "Hello", 1)?,
            };
            rows.push(CompareRow {
                format: format.to_owned(),
                method,
                bpw,
                file_bytes,
                size_vs_f16: file_bytes as f64 / sixteen as f64,
                peak_rss_bytes: run.peak_rss_bytes,
                prefill_tps: speeds[0].tps_median,
                decode_tps: speeds[1].tps_median,
                ppl: quality.ppl,
                kld_mean: quality.kld_mean.unwrap_or_default(),
                kld_se: quality.kld_se.unwrap_or_default(),
                top1_agreement: quality.top1_agreement.unwrap_or_default(),
                kld_mean_as_run,
                top1_agreement_as_run: quality.top1_agreement_as_run.unwrap_or_default(),
                verdict: verdict(kld_mean_as_run),
                sample: self.sample.as_ref().map(|prompt| format!("{prompt}{}", run.text)),
            });
        }
        Ok(Compared { rows })
    }

    /// File types and methods of the rows. Where a file type has no codes, there is nothing for a method to choose.
    fn pairs(&self) -> Result<Vec<(&str, &'static str)>, Error> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for format in &self.formats {
            let has_codes = file_type(format)?.format().grid().is_some();
            for method in &self.methods {
                let method = if has_codes { method_named(method)?.name() } else { "rtn" };
                if !pairs.contains(&(format, method)) {
                    pairs.push((format, method));
                }
            }
        }
        Ok(pairs)
    }
}

impl Compared {
    /// The table for a terminal.
    pub fn table(&self) -> String {
        let columns: [Column<CompareRow>; 12] = [
            Column::text("format", |row| row.format.clone()),
            Column::text("method", |row| row.method.to_owned()),
            Column::number("bpw", |row| format!("{:.2}", row.bpw)),
            Column::number("file", |row| size(row.file_bytes)),
            Column::number("memory", |row| size(row.peak_rss_bytes)),
            Column::number("prompt tok/s", |row| format!("{:.0}", row.prefill_tps)),
            Column::number("answer tok/s", |row| format!("{:.0}", row.decode_tps)),
            Column::number("perplexity", |row| format!("{:.4}", row.ppl)),
            Column::number("mean KLD", |row| format!("{:.5} ± {:.5}", row.kld_mean, row.kld_se)),
            Column::number("KLD as run", |row| format!("{:.5}", row.kld_mean_as_run)),
            Column::number("top-1 as run", |row| format!("{:.1} %", row.top1_agreement_as_run * 100.0)),
            Column::text("verdict", |row| row.verdict.to_owned()),
        ];
        kvant_report::table(&self.rows, &columns)
    }

    /// The table as CSV, without samples.
    ///
    /// # Errors
    /// None of a table that [`Compare::run`] made.
    pub fn csv(&self) -> Result<String, Error> {
        let rows: Vec<CompareRow> =
            self.rows.iter().map(|row| CompareRow { sample: None, ..row.clone() }).collect();
        kvant_report::csv(&rows).map_err(|error| Error::Result(error.to_string()))
    }
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

/// Hears of a part of a job: its steps are the job's own business, whether to stop is the user's.
struct Silent<'a>(&'a dyn Progress);

impl Progress for Silent<'_> {
    fn at(&self, done: u64, total: u64, what: &str) {
        self.0.at(done, total, what);
    }

    fn stop(&self) -> bool {
        self.0.stop()
    }
}
