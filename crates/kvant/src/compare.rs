//! The job `compare`: compares file types of one model, by default with 16, 8 and 4 bits.

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

/// Quantizes a model to several file types and measures each result: size, memory, speed, quality.
pub struct Compare<'a> {
    /// The model.
    pub model: &'a Model,
    /// The text on which quality is measured.
    pub text: &'a str,
    /// The names of the file types to compare.
    pub formats: Vec<String>,
    /// The names of the methods to compare. Each pair of file type and method gives a row.
    pub methods: Vec<String>,
    /// Tokens of a context.
    pub context: usize,
    /// Maximum number of contexts; `None` uses all contexts.
    pub contexts: Option<usize>,
    /// A prompt that the model of each row continues.
    pub sample: Option<String>,
}

/// The result of a separate process that only runs one file.
pub struct Alone {
    /// Peak resident memory of the process.
    pub peak_rss_bytes: u64,
    /// The answer to the prompt.
    pub text: String,
}

/// A function that runs a file in a separate process. The memory of this process is the memory that running the file
/// needs. The arguments are the file, a prompt and the number of tokens to generate. Sampling is greedy.
pub type RunAlone<'a> = &'a dyn Fn(&Path, &str, usize) -> Result<Alone, Error>;

/// The comparison of file types and methods.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Compared {
    /// One row for each file type and method.
    pub rows: Vec<CompareRow>,
}

/// The measurements of one file type and method.
#[derive(Clone, Serialize, schemars::JsonSchema)]
pub struct CompareRow {
    /// The file type.
    pub format: String,
    /// The method.
    pub method: &'static str,
    /// Bits of tensor data per weight.
    pub bpw: f64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// `file_bytes` divided by the size of the model in 16 bits.
    pub size_vs_f16: f64,
    /// Peak resident memory of a process that runs the file.
    pub peak_rss_bytes: u64,
    /// Prefill speed, tokens per second.
    pub prefill_tps: f64,
    /// Decode speed, tokens per second.
    pub decode_tps: f64,
    /// Perplexity.
    pub ppl: f64,
    /// Mean KL divergence from the original model, in nats per token.
    pub kld_mean: f64,
    /// Standard error of `kld_mean`.
    pub kld_se: f64,
    /// Share of positions at which both models have the same most likely token.
    pub top1_agreement: f64,
    /// `kld_mean` with the arithmetic of `run`: rounded activations, KV cache in f16.
    pub kld_mean_as_run: f64,
    /// `top1_agreement` with the arithmetic of `run`.
    pub top1_agreement_as_run: f64,
    /// A word that rates the size of `kld_mean_as_run`.
    pub verdict: &'static str,
    /// The sample's prompt and its continuation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

impl<'a> Compare<'a> {
    /// Compares `f16`, `q8_0`, `q4_k_m` and `q4_0`. The method is `rtn`, upstream's rounding.
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

    /// Runs the comparison. `alone` runs a file in a separate process.
    ///
    /// # Errors
    /// Unknown file types and methods; a text shorter than a context; errors of quantizing and measuring.
    pub fn run(
        &self,
        backend: &Backend,
        alone: RunAlone,
        progress: &dyn Progress,
    ) -> Result<Compared, Error> {
        let (weights, tokenizer) = (self.model.weights(), self.model.tokenizer()?);
        let folder = temporary_folder()?;
        // The reference is the original model. The 16-bit row is compared with the reference too.
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
            let bpw = quantize.run(backend, &WithoutHeadings(progress))?.bpw;
            let file = Model::open(&path)?;
            let model = file.load(backend.clone(), RunSettings::EXACT)?;
            let fast = file.load(backend.clone(), RunSettings::default())?;
            progress.begin(&format!("{format} by {method}: measure"));
            let judged = Judged { model: &model, reference: Some(&reference), as_run: Some(&fast) };
            let quality = evaluate(judged, &contexts, progress)?;
            // Quality is measured with exact arithmetic and with the arithmetic of `run`. Speed and samples use only
            // the arithmetic of `run`, so the network with exact arithmetic can be freed.
            drop(model);
            let tests = [
                Test::Prompt { tokens: self.context.min(128) },
                Test::Answer { tokens: 32.min(fast.spec().context), depth: 0, sequences: 1 },
            ];
            let speeds = bench(&fast, &tests, 3, &WithoutHeadings(progress))?;
            let entry = std::fs::metadata(&path);
            let file_bytes = entry.map_err(|e| Error::io(&path, "reading the size of", e))?.len();
            // The size of the model in 16 bits: the size of the first file if the first row is `f16`, otherwise two
            // bytes per weight.
            let size_in_16_bits =
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
                size_vs_f16: file_bytes as f64 / size_in_16_bits as f64,
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

    /// Returns the file types and methods of the rows. A file type without quantization gets only one row.
    fn pairs(&self) -> Result<Vec<(&str, &'static str)>, Error> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for format in &self.formats {
            let is_quantized = file_type(format)?.format().grid().is_some();
            for method in &self.methods {
                let method = if is_quantized { method_named(method)?.name() } else { "rtn" };
                if !pairs.contains(&(format, method)) {
                    pairs.push((format, method));
                }
            }
        }
        Ok(pairs)
    }
}

impl Compared {
    /// Returns the result as a table for a terminal.
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

    /// Returns the result as CSV, without samples.
    ///
    /// # Errors
    /// Rows that cannot be written as CSV. Results of [`Compare::run`] cause no error.
    pub fn csv(&self) -> Result<String, Error> {
        let rows: Vec<CompareRow> =
            self.rows.iter().map(|row| CompareRow { sample: None, ..row.clone() }).collect();
        kvant_report::csv(&rows).map_err(|error| Error::Result(error.into()))
    }
}

/// Returns a word that rates a mean KL divergence in nats per token.
fn verdict(kld: f64) -> &'static str {
    match kld {
        x if x < 0.001 => "same",
        x if x < 0.01 => "very close",
        x if x < 0.05 => "close",
        x if x < 0.2 => "noticeable",
        _ => "damaged",
    }
}

/// The progress receiver of an inner job. Forwards everything except the headings of its steps: the row has its own.
struct WithoutHeadings<'a>(&'a dyn Progress);

impl Progress for WithoutHeadings<'_> {
    fn at(&self, done: u64, total: u64, what: &str) {
        self.0.at(done, total, what);
    }

    fn stop(&self) -> bool {
        self.0.stop()
    }

    fn inform(&self, text: &str) {
        self.0.inform(text);
    }

    fn note(&self, text: &str) {
        self.0.note(text);
    }
}
