//! `kvant quantize`: quantizes a model.

use crate::arguments::{Common, Quantize};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output, terminal};
use kvant::quant::Step;
use kvant::report::size;
use kvant::{Budget, CalibrationText, Model, Quantized};
use std::process::ExitCode;

/// Exit status if the file was written but is larger than the requested size.
const BOUND_MISSED: u8 = 3;

/// Runs the command.
pub fn run(common: &Common, arguments: &Quantize) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let job = job(arguments, &model);
    arguments.seed.say(common.quiet);
    let backend = machine::start(common)?;
    let bar = Bar::new(common);
    if arguments.dry_run {
        return output::show(common, &job.plan(&backend, &bar)?, |planned| print(common, planned));
    }
    let done = job.run(&backend, &bar)?;
    // The result is printed first, so that it is not lost if the card cannot be written. The card is written even if
    // printing fails because the pipe is closed.
    let printed = output::show(common, &done, |done| print(common, done));
    done.write_card(arguments.file.force)?;
    let printed = printed?;
    let size = done.file_bytes()?;
    if let Some(asked) = arguments.bytes.filter(|&asked| size > asked) {
        terminal::say(format_args!("{}: {size} bytes, more than the {asked} asked for", done.output));
        return Ok(ExitCode::from(BOUND_MISSED));
    }
    Ok(printed)
}

/// Creates the job from the flags.
fn job<'a>(arguments: &Quantize, model: &'a Model) -> kvant::Quantize<'a> {
    let job = kvant::Quantize::new(model, &arguments.file.output);
    kvant::Quantize {
        format: arguments.format.clone(),
        budget: (arguments.bytes.map(Budget::Bytes)).or(arguments.bpw.map(Budget::BitsPerWeight)),
        method: arguments.method.clone(),
        calibration: arguments.calib.iter().map(|path| CalibrationText::at(path)).collect(),
        calibration_tokens: arguments.calib_tokens,
        self_generated_tokens: arguments.own_tokens,
        importance: arguments.imatrix.clone(),
        damping: arguments.damping,
        correction_damping: arguments.correction_damping,
        overrides: arguments.overrides.clone(),
        pure: arguments.pure,
        allow_requantize: arguments.allow_requantize,
        seed: arguments.seed.number,
        work: arguments.work.clone().unwrap_or_else(|| job.work.clone()),
        fresh: arguments.fresh,
        memory_bytes: arguments.memory,
        force: arguments.file.force,
        ..job
    }
}

fn print(common: &Common, result: &Quantized) -> Result<(), Failure> {
    if common.verbose {
        print_details(result)?;
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
        size(result.bytes_in),
        size(result.bytes_out),
        result.bpw,
        result.format,
        result.seconds
    ))
}

/// Prints one line for each tensor, and the cost of each kind of step.
fn print_details(result: &Quantized) -> Result<(), Failure> {
    for t in &result.tensors {
        let mut flags = t.flags.iter().map(|flag| flag.name()).collect::<Vec<_>>().join(" ");
        if let Some(s) = t.chosen {
            let correction = s.correction_damping.map_or("none".to_owned(), |x| x.to_string());
            flags.push_str(&format!(" damping {}, of the correction {correction}", s.damping));
        }
        let name = terminal::name(&t.name);
        output::line(&format!("{name:<28} {:>6} → {:<7} {:>8.4} {flags}", t.from, t.format, t.rel_rmse))?;
    }
    let Some(cost) = &result.cost else { return Ok(()) };
    let step = |name: &str, step: Step| {
        let rate = step.multiply_adds / step.seconds.max(1e-9) / 1e9;
        let rate =
            if step.multiply_adds > 0.0 { format!(", {rate:.1} G multiply-adds/s") } else { String::new() };
        output::line(&format!("{name:<28} {:>8.1} s{rate}", step.seconds))
    };
    step("text of the model's own", cost.own_text)?;
    step("gradients", cost.sensitivity)?;
    step("passes of both networks", cost.passes)?;
    step("sums of products", cost.sums)?;
    step("choosing settings", cost.choosing)?;
    step("solving", cost.solving)
}
