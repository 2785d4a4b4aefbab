//! `kvant quantize`: a model made small.

use crate::arguments::{Common, Quantize};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{open, output, terminal};
use kvant::core::format;
use kvant::eval::{machine_memory_bytes, peak_resident_bytes};
use kvant::io::OutputFile;
use kvant::model::{Entry, Tokenizer};
use kvant::quant::{
    Allocation, Calibration, Cost, Expected, FILE_TYPES, FileType, HostCard, METHODS, Need, Override, Reach,
    Recipe, SELF_GENERATED_START, Settings, Solver, Step, TensorReport, allocate, allocation_bytes,
    memory_bytes, method, overhead_bytes, plan_tensors, planned_bytes, work_bytes,
};
use serde::Serialize;
use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Quantized {
    output: String,
    format: &'static str,
    method: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    bpw: f64,
    seconds: f64,
    peak_rss_bytes: u64,
    calib_tokens: u64,
    /// Tokens that the model wrote itself to be calibrated on.
    own_tokens: u64,
    /// The seed of noise, of the model's own text and of the labels of its gradients.
    seed: u64,
    tensors: Vec<TensorReport>,
    warnings: Vec<String>,
    /// What the walk through the network cost, for methods that make one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
    /// What the result lost on calibration text, for the same methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Expected>,
    /// What a budget came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation: Option<Allocation>,
}

/// The file type of this name.
pub fn file_type(name: &str) -> Result<&'static FileType, Failure> {
    let known: Vec<&str> = FILE_TYPES.iter().map(|t| t.name).collect();
    FileType::by_name(&name.to_ascii_lowercase()).ok_or_else(|| {
        let built = ["gptq", "awq", "ct-int4", "ct-int8", "nf4"];
        let why = if built.contains(&name) { "is not built yet" } else { "is not known" };
        Failure::Usage(format!("--format {name} {why}; there are {}", known.join(", ")))
    })
}

fn recipe(arguments: &Quantize, opened: &open::Opened) -> Result<Recipe, Failure> {
    let overrides = arguments.overrides.iter().map(|text| {
        let (pattern, name) = text
            .rsplit_once('=')
            .ok_or_else(|| Failure::Usage(format!("--set {text}: expected PATTERN=FORMAT")))?;
        let format = format::by_name(&name.to_ascii_lowercase())
            .ok_or_else(|| Failure::Usage(format!("--set {text}: there is no format {name}")))?;
        let pattern = regex::Regex::new(pattern).map_err(|e| Failure::Usage(format!("--set {text}: {e}")))?;
        let asked = Override { pattern, format };
        match asked.reach(opened.weights.entries()) {
            Reach::Changes => Ok(asked),
            Reach::Kept(name) => Err(Failure::Usage(format!(
                "--set {text}: the pattern names only tensors that keep their format, {name} first (norms, biases and \
                 vectors are never quantized)"
            ))),
            Reach::Nothing => Err(Failure::Usage(format!(
                "--set {text}: the pattern names no tensor; `kvant inspect` lists those of a GGUF, blk.0.ffn_down.weight \
                 is one"
            ))),
        }
    });
    let file_type = file_type(&arguments.format)?;
    let budget = arguments.bytes.is_some() || arguments.bpw.is_some();
    let tokenizer =
        LazyCell::new(|| open::tokenizer(opened.weights.checkpoint().meta(), &arguments.model.path()));
    let (method, mut notes) =
        chosen_method(arguments, &tokenizer, budget || file_type.format().grid().is_some())?;
    if arguments.imatrix.is_some() && method.need() != Need::Importance {
        return Err(Failure::Usage(format!(
            "--imatrix: the method {} does not read it; --method imatrix does",
            method.name()
        )));
    }
    let limits = kvant::io::Limits::default();
    let importance =
        arguments.imatrix.as_ref().map(|path| kvant::quant::Importance::read(path, &limits)).transpose()?;
    let calibration = (budget || method.need() > Need::Nothing && importance.is_none()).then(|| {
        let noise = (method.need() == Need::Hessian).then_some(arguments.seed.number);
        match &*tokenizer {
            Ok(tokenizer) => {
                let texts = open::calibration_texts(&arguments.calib)?;
                let most = arguments.calib_tokens.unwrap_or_else(|| kvant::calibration_tokens(&texts));
                open::calibration(&texts, most, noise, opened, tokenizer)
            }
            Err(failure) => Err(failure.clone()),
        }
    });
    let calibration = calibration.transpose()?;
    let own_contexts = own_contexts(arguments, opened, method, calibration.as_ref(), &mut notes)?;
    let mut settings = Settings::default();
    for (flag, given) in
        [("--damping", arguments.damping), ("--correction-damping", arguments.correction_damping)]
    {
        let Some(x) = given else { continue };
        if method.chooses() || method.need() != Need::Hessian {
            let why = if method.chooses() { "chooses it itself" } else { "has no use for it" };
            return Err(Failure::Usage(format!("{flag}: the method {} {why}", method.name())));
        }
        if !(x.is_finite() && x >= 0.0) {
            return Err(Failure::Usage(format!("{flag} {x}: expected a finite number of at least 0")));
        }
    }
    settings.damping = arguments.damping.unwrap_or(settings.damping);
    settings.correction_damping = arguments.correction_damping.or(settings.correction_damping);
    let mut work = arguments.output.clone().into_os_string();
    work.push(".work");
    Ok(Recipe {
        file_type,
        method,
        pure: arguments.pure,
        formats: None,
        overrides: overrides.collect::<Result<_, _>>()?,
        allow_requantize: arguments.allow_requantize,
        seed: arguments.seed.number,
        settings,
        calibration,
        self_generated: own_contexts,
        importance,
        work: arguments.work.clone().unwrap_or(work.into()),
        fresh: arguments.fresh,
        notes,
    })
}

/// Exit status of work that is done, but not within a bound that was asked for.
const BOUND_MISSED: u8 = 3;

/// A model of more bytes than this share of the machine's memory writes no text of its own unless asked to.
const FITS: f64 = 0.75;

/// Contexts that the model writes itself at most, unless it is asked for more: more of them bring nothing
/// (docs/adr/0005).
const OWN_CONTEXTS: usize = 32;

/// Contexts that the model is to write itself.
fn own_contexts(
    arguments: &Quantize,
    opened: &open::Opened,
    method: &dyn Solver,
    calibration: Option<&Calibration>,
    notes: &mut Vec<String>,
) -> Result<usize, Failure> {
    let (Need::Hessian, Some(calibration)) = (method.need(), calibration) else {
        return match arguments.own_tokens {
            Some(n) if n > 0 => {
                Err(Failure::Usage(format!("--own-tokens: the method {} has no use for it", method.name())))
            }
            _ => Ok(0),
        };
    };
    if calibration.length() <= SELF_GENERATED_START {
        return Ok(0);
    }
    if let Some(tokens) = arguments.own_tokens {
        return Ok(tokens.div_ceil(calibration.length()));
    }
    let bytes = |e: &Entry| e.format.tensor_bytes(&e.shape).unwrap_or(0) as u64;
    let all: u64 = opened.weights.entries().iter().map(bytes).sum();
    if machine_memory_bytes().is_some_and(|memory| all as f64 > FITS * memory as f64) {
        notes.push(
            "the model does not fit in this machine's memory, so it wrote no text of its own to be calibrated on; \
             --own-tokens asks for it"
                .to_owned(),
        );
        return Ok(0);
    }
    Ok((calibration.contexts().len() / 2).min(OWN_CONTEXTS))
}

/// The method asked for, or the best that the model and the given files allow, with a note where that is not `auto`.
fn chosen_method(
    arguments: &Quantize,
    tokenizer: &LazyCell<Result<Tokenizer, Failure>, impl FnOnce() -> Result<Tokenizer, Failure>>,
    coded: bool,
) -> Result<(&'static dyn Solver, Vec<String>), Failure> {
    let (name, note) = match &arguments.method {
        Some(name) => (name.as_str(), None),
        None if arguments.imatrix.is_some() => ("imatrix", None),
        None if !coded => ("rtn", None),
        None if tokenizer.is_err() => (
            "rtn",
            Some(
                "the model has no tokenizer that can be used, so nothing was calibrated: method rtn instead of auto",
            ),
        ),
        None => ("auto", None),
    };
    Ok((method_named(name)?, note.map(str::to_owned).into_iter().collect()))
}

/// The method of this name.
pub fn method_named(name: &str) -> Result<&'static dyn Solver, Failure> {
    let known: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
    method(name).ok_or_else(|| {
        Failure::Usage(format!("--method {name} is not known; there are {}", known.join(", ")))
    })
}

/// Refuses outputs that this version cannot write.
pub fn check_output(path: &Path) -> Result<(), Failure> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return Ok(());
    }
    Err(Failure::Usage(format!("{}: only .gguf outputs are built yet", path.display())))
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Quantize) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    check_output(&arguments.output)?;
    let card = output::card_path(&arguments.output).unwrap_or_default();
    if !arguments.dry_run {
        let model = arguments.model.path();
        let inputs = [&model].into_iter().chain(&arguments.calib).chain(&arguments.imatrix);
        let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
        output::check(&[&arguments.output, &card], &inputs, arguments.force)?;
    }
    let opened = open::model(&arguments.model.path())?;
    let mut recipe = recipe(arguments, &opened)?;
    if !arguments.dry_run && recipe.method.need() == Need::Hessian {
        OutputFile::check_apart(&[&arguments.output, &card, &recipe.work])?;
        kvant::quant::check_work_folder(&recipe.work)?;
    }
    arguments.seed.say(common);
    let threads = open::threads(common);
    let backend = open::backend(common)?;
    open::start_threads(common)?;
    let mut allocation = None;
    if let Some(budget) = budget(arguments, &opened, &recipe)? {
        let assignments = plan_tensors(&opened.weights, &recipe)?;
        let needed = memory_bytes(&opened.weights, &recipe, &assignments, threads);
        allow_memory(arguments, &recipe, needed.max(allocation_bytes(&opened.weights, &recipe, threads)))?;
        let bar = Bar::new(common, "allocate");
        let found = allocate(&opened.weights, &recipe, budget, &backend, &bar);
        bar.clear();
        let found = found?;
        recipe = recipe.allocated(&opened.weights, found.formats.clone())?;
        say_allocation(common, &found);
        allocation = Some(found);
    }
    if arguments.dry_run {
        return dry_run(common, arguments, &opened, &recipe, allocation);
    }
    prepare(common, arguments, &opened, &recipe, threads)?;
    let bar = Bar::new(common, "quantize");
    let report =
        kvant::quant::quantize(&opened.weights, &recipe, &arguments.output, arguments.force, &backend, &bar);
    let report = report.map_err(|error| match error {
        kvant::quant::Error::Interrupted if recipe.method.need() == Need::Hessian => {
            bar.clear();
            terminal::say(format_args!(
                "what is solved so far lies in {}; the same command goes on from there",
                recipe.work.display()
            ));
            Failure::Interrupted
        }
        error => error.into(),
    })?;
    let result = Quantized {
        output: arguments.output.to_string_lossy().into_owned(),
        format: recipe.format_name(),
        method: recipe.method.name(),
        bytes_in: report.file.bytes_in,
        bytes_out: report.file.bytes_out,
        bpw: report.file.bpw,
        seconds: begin.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_resident_bytes(),
        calib_tokens: recipe.calibration.as_ref().map_or(0, |c| c.tokens() as u64),
        own_tokens: recipe.calibration.as_ref().map_or(0, |c| (c.length() * recipe.self_generated) as u64),
        seed: recipe.seed,
        tensors: report.file.tensors,
        warnings: report.warnings,
        cost: report.cost,
        expected: report.expected,
        allocation,
    };
    let host = HostCard {
        card: report.card,
        seconds: result.seconds,
        threads,
        peak_rss_bytes: result.peak_rss_bytes,
        host: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        finished_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    // The result is printed before the card can fail. A closed pipe does not keep the card from being written.
    let printed = print(common, &result);
    let measured = serde_json::to_string_pretty(&host).map_err(|e| Failure::Fault(e.to_string()))? + "\n";
    OutputFile::write_whole(&card, measured.as_bytes(), arguments.force)?;
    printed?;
    let size = std::fs::metadata(&arguments.output);
    let size = size.map_err(|e| Failure::io(&arguments.output, "reading the size of", e))?.len();
    if let Some(asked) = arguments.bytes.filter(|&asked| size > asked) {
        terminal::say(format_args!(
            "{}: {size} bytes, more than the {asked} asked for",
            arguments.output.display()
        ));
        return Ok(ExitCode::from(BOUND_MISSED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses work that needs more memory than is allowed; says where unfinished work will lie and how large it may get.
fn prepare(
    common: &Common,
    arguments: &Quantize,
    opened: &open::Opened,
    recipe: &Recipe,
    threads: usize,
) -> Result<(), Failure> {
    let assignments = plan_tensors(&opened.weights, recipe)?;
    let needed = memory_bytes(&opened.weights, recipe, &assignments, threads);
    allow_memory(arguments, recipe, needed)?;
    let bytes = work_bytes(&opened.weights, recipe, planned_bytes(&assignments));
    if bytes > 0 && !common.quiet {
        terminal::say(format_args!(
            "work in {}, up to {}; memory up to {}",
            recipe.work.display(),
            output::size(bytes),
            output::size(needed)
        ));
    }
    Ok(())
}

/// Refuses what needs more memory than is allowed.
fn allow_memory(arguments: &Quantize, recipe: &Recipe, needed: u64) -> Result<(), Failure> {
    let Some(allowed) = arguments.memory.filter(|&allowed| needed > allowed) else { return Ok(()) };
    Err(Failure::Fault(format!(
        "--memory {}: the method {} needs up to {needed} bytes ({}) for this model; nothing was done; allow that much, \
         or leave out what the model writes itself (--own-tokens 0), or take a method that needs less (rtn, imatrix)",
        output::size(allowed),
        recipe.method.name(),
        output::size(needed)
    )))
}

/// Bytes of tensor data that `--bytes` or `--bpw` allow.
fn budget(arguments: &Quantize, opened: &open::Opened, recipe: &Recipe) -> Result<Option<u64>, Failure> {
    let elements: usize = opened.weights.entries().iter().map(|e| e.shape.elements()).sum();
    match (arguments.bytes, arguments.bpw) {
        (Some(bytes), _) => {
            let overhead = overhead_bytes(&opened.weights, recipe)?;
            let error = || {
                Failure::Fault(format!(
                    "--bytes {}: tokenizer and other metadata alone take {}",
                    output::size(bytes),
                    output::size(overhead)
                ))
            };
            Ok(Some(bytes.checked_sub(overhead).ok_or_else(error)?))
        }
        (None, Some(bits)) if bits.is_finite() && bits > 0.0 => {
            Ok(Some((bits * elements as f64 / 8.0) as u64))
        }
        (None, Some(bits)) => Err(Failure::Usage(format!("--bpw {bits}: expected a number above 0"))),
        (None, None) => Ok(None),
    }
}

/// Says what a budget came to, what else was measured, and what more bytes would buy.
fn say_allocation(common: &Common, allocation: &Allocation) {
    if common.quiet {
        return;
    }
    for (i, candidate) in allocation.candidates.iter().enumerate() {
        terminal::say(format_args!(
            "{} {}: {}, KL divergence {:.5} with quick encoders",
            if i == 0 { "taken:" } else { "not taken:" },
            candidate.name,
            output::size(candidate.bytes),
            candidate.kld
        ));
    }
    terminal::say(format_args!(
        "5 % more bytes would lower it by about {:.0} %",
        100.0 * allocation.next_5_percent
    ));
}

fn dry_run(
    common: &Common,
    arguments: &Quantize,
    opened: &open::Opened,
    recipe: &Recipe,
    allocation: Option<Allocation>,
) -> Result<ExitCode, Failure> {
    let assignments = plan_tensors(&opened.weights, recipe)?;
    let elements: usize = assignments.iter().map(|a| a.entry.shape.elements()).sum();
    let tensors: Vec<TensorReport> = assignments
        .iter()
        .map(|a| TensorReport {
            name: a.entry.name.clone(),
            from: a.entry.format.name(),
            format: a.format.name(),
            bytes: a.format.tensor_bytes(&a.entry.shape).map_or(0, |n| n as u64),
            rel_rmse: 0.0,
            flags: vec!["planned"],
            chosen: None,
        })
        .collect();
    let bytes_out: u64 = tensors.iter().map(|t| t.bytes).sum();
    let bytes_in =
        assignments.iter().map(|a| a.entry.format.tensor_bytes(&a.entry.shape).map_or(0, |n| n as u64)).sum();
    let result = Quantized {
        output: arguments.output.to_string_lossy().into_owned(),
        format: recipe.format_name(),
        method: recipe.method.name(),
        bytes_in,
        bytes_out,
        bpw: bytes_out as f64 * 8.0 / elements.max(1) as f64,
        seconds: 0.0,
        peak_rss_bytes: peak_resident_bytes(),
        calib_tokens: 0,
        own_tokens: 0,
        seed: recipe.seed,
        tensors,
        warnings: Vec::new(),
        cost: None,
        expected: None,
        allocation,
    };
    print(common, &result)
}

fn print(common: &Common, result: &Quantized) -> Result<ExitCode, Failure> {
    if common.json {
        output::json(result)?;
        return Ok(ExitCode::SUCCESS);
    }
    if common.verbose {
        for t in &result.tensors {
            let mut flags = t.flags.join(" ");
            if let Some(s) = t.chosen {
                let correction = s.correction_damping.map_or("none".to_owned(), |x| x.to_string());
                flags.push_str(&format!(" damping {}, of the correction {correction}", s.damping));
            }
            output::line(&format!(
                "{:<28} {:>6} → {:<7} {:>8.4} {flags}",
                terminal::name(&t.name),
                t.from,
                t.format,
                t.rel_rmse
            ))?;
        }
    }
    if let (true, Some(cost)) = (common.verbose, &result.cost) {
        let step = |name: &str, step: Step| {
            let rate = step.multiply_adds / step.seconds.max(1e-9) / 1e9;
            let rate = if step.multiply_adds > 0.0 {
                format!(", {rate:.1} G multiply-adds/s")
            } else {
                String::new()
            };
            output::line(&format!("{name:<28} {:>8.1} s{rate}", step.seconds))
        };
        step("text of the model's own", cost.own_text)?;
        step("gradients", cost.sensitivity)?;
        step("passes of both networks", cost.passes)?;
        step("sums of products", cost.sums)?;
        step("choosing settings", cost.choosing)?;
        step("solving", cost.solving)?;
    }
    for warning in &result.warnings {
        terminal::say(format_args!("note: {warning}"));
    }
    if let Some(expected) = &result.expected {
        output::line(&format!(
            "expected loss: KL divergence {:.4} on text like that of calibration, {:.4} of it by the head; \
             `kvant eval` measures it on yours",
            expected.kld, expected.head_kld
        ))?;
    }
    output::line(&format!(
        "{}: {} → {} ({:.3} bits a weight, {}) in {:.1} s",
        result.output,
        output::size(result.bytes_in),
        output::size(result.bytes_out),
        result.bpw,
        result.format,
        result.seconds
    ))?;
    Ok(ExitCode::SUCCESS)
}
