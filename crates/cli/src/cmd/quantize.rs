//! `kvant quantize`: a model made small.

use crate::arguments::{Common, Quantize};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{calibration, open, output};
use kvant::core::format;
use kvant::eval::peak_resident_bytes;
use kvant::quant::{
    Cost, FILE_TYPES, FileType, HostCard, METHODS, Need, Override, Recipe, Settings, Step, TensorReport, method,
    memory_bytes, plan_tensors, planned_bytes, work_bytes,
};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Quantized {
    output: PathBuf,
    format: &'static str,
    method: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    bpw: f64,
    seconds: f64,
    peak_rss_bytes: u64,
    calib_tokens: u64,
    tensors: Vec<TensorReport>,
    warnings: Vec<String>,
    /// What the walk through the network cost, for methods that make one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
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
        Ok::<_, Failure>(Override { pattern, format })
    });
    let method_of = |name: &str| {
        let known: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
        method(name).ok_or_else(|| {
            Failure::Usage(format!("--method {name} is not known; there are {}", known.join(", ")))
        })
    };
    let method = method_of(&arguments.method)?;
    if arguments.imatrix.is_some() && method.need() != Need::Importance {
        return Err(Failure::Usage(format!(
            "--imatrix: the method {} does not read it; --method imatrix does",
            method.name()
        )));
    }
    let limits = kvant::io::Limits::default();
    let importance =
        arguments.imatrix.as_ref().map(|path| kvant::quant::Importance::read(path, &limits)).transpose()?;
    let calibration = (method.need() > Need::Nothing && importance.is_none()).then(|| {
        calibration::read(&arguments.calib, arguments.calib_tokens, opened, &arguments.model.path())
    });
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
        file_type: file_type(&arguments.format)?,
        method,
        pure: arguments.pure,
        overrides: overrides.collect::<Result<_, _>>()?,
        allow_requantize: arguments.allow_requantize,
        seed: arguments.seed,
        settings,
        calibration: calibration.transpose()?,
        importance,
        work: arguments.work.clone().unwrap_or(work.into()),
        fresh: arguments.fresh,
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
    let opened = open::model(&arguments.model.path())?;
    let recipe = recipe(arguments, &opened)?;
    if arguments.dry_run {
        return dry_run(common, arguments, &opened, &recipe);
    }
    let threads = open::threads(common);
    let backend = open::backend(common)?;
    prepare(common, arguments, &opened, &recipe, threads)?;
    let bar = Bar::new(common, "quantize");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Failure::Fault(format!("cannot start {threads} threads: {e}")))?;
    let report = pool.install(|| {
        kvant::quant::quantize(&opened.weights, &recipe, &arguments.output, arguments.force, &backend, &bar)
    });
    let report = report.map_err(|error| match error {
        kvant::quant::Error::Interrupted if recipe.method.need() == Need::Hessian => {
            bar.clear();
            eprintln!(
                "kvant: what is solved so far lies in {}; the same command goes on from there",
                recipe.work.display()
            );
            Failure::Interrupted
        }
        error => error.into(),
    })?;
    let result = Quantized {
        output: arguments.output.clone(),
        format: recipe.file_type.name,
        method: recipe.method.name(),
        bytes_in: report.bytes_in,
        bytes_out: report.bytes_out,
        bpw: report.bpw,
        seconds: begin.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_resident_bytes(),
        calib_tokens: recipe.calibration.as_ref().map_or(0, |c| c.tokens() as u64),
        tensors: report.tensors,
        warnings: report.warnings,
        cost: report.cost,
    };
    let host = HostCard {
        card: report.card,
        seconds: result.seconds,
        threads,
        peak_rss_bytes: result.peak_rss_bytes,
        host: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        finished_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    let card = serde_json::to_string_pretty(&host).map_err(|e| Failure::Fault(e.to_string()))?;
    std::fs::write(format!("{}.card.json", arguments.output.display()), card + "\n")?;
    print(common, &result)
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
    if let Some(allowed) = arguments.memory.filter(|&allowed| needed > allowed) {
        return Err(Failure::Fault(format!(
            "--memory {}: the method {} needs up to {needed} bytes ({}) for this model; nothing was done; allow that much, \
             or take a method that needs less (rtn, imatrix)",
            output::size(allowed),
            recipe.method.name(),
            output::size(needed)
        )));
    }
    let bytes = work_bytes(&opened.weights, recipe, planned_bytes(&assignments));
    if bytes > 0 && !common.quiet {
        eprintln!(
            "kvant: work in {}, up to {}; memory up to {}",
            recipe.work.display(),
            output::size(bytes),
            output::size(needed)
        );
    }
    Ok(())
}

fn dry_run(
    common: &Common,
    arguments: &Quantize,
    opened: &open::Opened,
    recipe: &Recipe,
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
        output: arguments.output.clone(),
        format: recipe.file_type.name,
        method: recipe.method.name(),
        bytes_in,
        bytes_out,
        bpw: bytes_out as f64 * 8.0 / elements.max(1) as f64,
        seconds: 0.0,
        peak_rss_bytes: peak_resident_bytes(),
        calib_tokens: 0,
        tensors,
        warnings: Vec::new(),
        cost: None,
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
                t.name, t.from, t.format, t.rel_rmse
            ))?;
        }
    }
    if let (true, Some(cost)) = (common.verbose, &result.cost) {
        let step = |name: &str, step: Step| {
            let rate = step.multiply_adds / step.seconds.max(1e-9) / 1e9;
            let rate = if step.multiply_adds > 0.0 { format!(", {rate:.1} G multiply-adds/s") } else { String::new() };
            output::line(&format!("{name:<28} {:>8.1} s{rate}", step.seconds))
        };
        step("passes of both networks", cost.passes)?;
        step("sums of products", cost.sums)?;
        step("choosing settings", cost.choosing)?;
        step("solving", cost.solving)?;
    }
    for warning in &result.warnings {
        eprintln!("kvant: note: {warning}");
    }
    output::line(&format!(
        "{}: {} → {} ({:.3} bits a weight, {}) in {:.1} s",
        result.output.display(),
        output::size(result.bytes_in),
        output::size(result.bytes_out),
        result.bpw,
        result.format,
        result.seconds
    ))?;
    Ok(ExitCode::SUCCESS)
}
