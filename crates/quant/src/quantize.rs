//! The job `quantize`: from a checkpoint and a recipe to a smaller file.
//!
//! Left out: the solving of layers (`walk`), the writing of the file (`write`).

use crate::gather::{Calibration, gather_importance};
use crate::plan::{Assignment, Recipe, plan_tensors, planned, planned_bytes};
use crate::solve::{Layer, Need, importance_flags, is_zero};
use crate::walk::Walk;
use crate::work_folder::WorkFolder;
use crate::write::{CARD_KEY, CARD_LIMIT_BYTES, CalibrationCard, Card, Report, write};
use crate::{Error, Progress};
use kvant_io::{Plan, PlannedTensor, Value};
use kvant_kernels::Backend;
use kvant_model::{Weights, export};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `weights` to `output` (GGUF) as the recipe says, and checks the written file.
///
/// # Errors
/// Whatever reads, does not fit, or does not read back; then nothing is left at `output`.
pub fn quantize(
    weights: &Weights,
    recipe: &Recipe,
    output: &Path,
    force: bool,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    // Said before the work, not after it.
    kvant_io::OutputFile::check(output, force)?;
    let assignments = plan_tensors(weights, recipe)?;
    let export::Exported { mut metadata, notes } = export::gguf_metadata_and_notes(weights)?;
    let mut warnings = recipe.notes.clone();
    warnings.extend(notes);
    warnings.extend(fallback_warnings(&assignments));
    let input = kvant_io::content_hash(weights.checkpoint())?.to_hex().to_string();
    let mut card = card(recipe, &assignments, input);
    card.warnings.clone_from(&warnings);
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set("general.file_type", Value::U32(recipe.file_type.number));
    // What shapes activations beside the tensors: rotary settings, epsilon, tokenizer.
    let settings = format!("{metadata:?}");
    let work = open_work(recipe, &assignments, &card.input_blake3, &settings, backend)?;
    let mut walk = work.as_ref().map(|(work, calibration)| {
        let (assignments, calibration) = (&assignments, (*calibration).clone());
        Walk { weights, recipe, assignments, calibration, work, backend, progress, cost: RefCell::default() }
    });
    let mut solutions = walk.as_mut().map(Walk::run).transpose()?;
    let gathered;
    let importance = match (&recipe.importance, recipe.method.need(), &recipe.calibration) {
        (Some(given), _, _) => Some(given),
        (None, Need::Importance, Some(calibration)) => {
            gathered = gather_importance(weights, calibration, backend, progress)?;
            Some(&gathered)
        }
        _ => None,
    };
    let of = |assignment: &Assignment| -> Result<Option<Vec<f32>>, Error> {
        let Some(importance) = importance else { return Ok(None) };
        importance.mean_square(&assignment.entry.name, assignment.entry.shape.columns(), 1)
    };
    // The file's own card stands before the tensors, so what there is to say of them is found out first.
    for assignment in assignments.iter().filter(|a| a.changes()) {
        let mut flags = match (&solutions, recipe.method.need()) {
            (Some(solutions), _) => solutions.flags(&assignment.entry.name).to_vec(),
            (None, Need::Importance) if assignment.format.grid().is_some() => {
                importance_flags(of(assignment)?.as_deref())
            }
            _ => Vec::new(),
        };
        if is_zero(&weights.tensor(&assignment.entry.name)?) {
            flags.push("zero");
        }
        card.warnings.extend(flag_warnings(&assignment.entry.name, &flags));
    }
    metadata.set(CARD_KEY, Value::String(card.to_json()));
    let mut source = |assignment: &Assignment| {
        if let Some(solutions) = &mut solutions
            && let Some(solved) = solutions.get(&assignment.entry.name)?
        {
            return Ok(solved);
        }
        let name = assignment.entry.name.as_str();
        let weight = weights.tensor(name)?;
        let importance = of(assignment)?;
        let layer = Layer {
            importance: importance.as_deref(),
            settings: recipe.settings,
            ..Layer::uncalibrated(name, &weight, backend)
        };
        recipe.method.solve(&layer, assignment.format)
    };
    let file = write(weights, &assignments, metadata, &mut source, output, force, backend, progress)?;
    warnings.extend(file.tensors.iter().flat_map(|t| flag_warnings(&t.name, &t.flags)));
    card.output_blake3.clone_from(&file.output_blake3);
    card.warnings.clone_from(&warnings);
    let expected = solutions.and_then(|s| s.expected);
    let cost = walk.map(|walk| walk.cost.into_inner());
    if let Some((work, _)) = work {
        work.remove();
    }
    Ok(Report { file, warnings, cost, expected, card })
}

/// What determines the file, as far as it is known before the work.
fn card(recipe: &Recipe, assignments: &[Assignment], input_blake3: String) -> Card {
    let mut formats = BTreeMap::new();
    for assignment in assignments {
        *formats.entry(assignment.format.name().to_owned()).or_insert(0) += 1;
    }
    Card {
        kvant: env!("CARGO_PKG_VERSION").to_owned(),
        method: recipe.method.name().to_owned(),
        format: recipe.format_name().to_owned(),
        pure: recipe.pure,
        seed: recipe.seed,
        input_blake3,
        output_blake3: String::new(),
        formats,
        calibration: recipe.calibration.as_ref().map(|c| CalibrationCard {
            source: c.source().to_owned(),
            tokens_blake3: c.digest(),
            contexts: c.contexts().len(),
            context_tokens: c.length(),
            own_contexts: if recipe.method.need() == Need::Hessian { recipe.self_generated } else { 0 },
        }),
        settings: (recipe.method.need() == Need::Hessian).then_some(recipe.settings),
        overrides: recipe.overrides.iter().map(|o| format!("{}={}", o.pattern, o.format.name())).collect(),
        warnings: Vec::new(),
    }
}

/// Bytes of a file that are not tensor data, at most, where its formats are found for a budget.
///
/// # Errors
/// What describing the network says.
pub fn overhead_bytes(weights: &Weights, recipe: &Recipe) -> Result<u64, Error> {
    let assignments = plan_tensors(weights, recipe)?;
    let mut metadata = export::gguf_metadata(weights)?;
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set("general.file_type", Value::U32(recipe.file_type.number));
    // Whatever formats it comes to, and whatever there is to warn of.
    metadata.set(CARD_KEY, Value::String(" ".repeat(CARD_LIMIT_BYTES)));
    let tensors: Vec<PlannedTensor> = planned(&assignments);
    let padding = tensors.len() as u64 * 32;
    let file = kvant_io::file_bytes(weights.path(), &Plan { metadata, tensors })?;
    Ok(file - planned_bytes(&assignments) + padding)
}

/// Counts up with every change of what lies in a work folder or of the values that methods come to.
const WORK_FORMAT: u32 = 2;

/// The work folder and the text of a method that walks through the network; `None` for the others.
fn open_work<'a>(
    recipe: &'a Recipe,
    assignments: &[Assignment],
    input: &str,
    metadata: &str,
    backend: &Backend,
) -> Result<Option<(WorkFolder, &'a Calibration)>, Error> {
    if recipe.method.need() == Need::Nothing {
        return Ok(None);
    }
    let missing = Error::NoCalibration { method: recipe.method.name() };
    if recipe.method.need() == Need::Importance {
        let given = recipe.importance.is_some() || recipe.calibration.is_some();
        return if given { Ok(None) } else { Err(missing) };
    }
    let calibration = recipe.calibration.as_ref().ok_or(missing)?;
    let mut hasher = blake3::Hasher::new();
    let settings = format!(
        "{WORK_FORMAT} {:?} {} {} {}",
        recipe.settings,
        calibration.length(),
        recipe.self_generated,
        recipe.seed
    );
    for part in [
        env!("CARGO_PKG_VERSION"),
        recipe.method.name(),
        input,
        metadata,
        &calibration.digest(),
        &settings,
        backend.isa().name(),
    ] {
        hasher.update(part.as_bytes()).update(b"\0");
    }
    for assignment in assignments {
        hasher.update(assignment.entry.name.as_bytes()).update(assignment.format.name().as_bytes());
    }
    let work = WorkFolder::open(&recipe.work, &hasher.finalize().to_hex(), recipe.fresh)?;
    Ok(Some((work, calibration)))
}

/// What a tensor's flags mean to a user.
fn flag_warnings(name: &str, flags: &[&'static str]) -> Vec<String> {
    let text = |flag: &&'static str| match *flag {
        "zero" => Some("all weights are zero"),
        "uncalibrated" => Some("no usable calibration data; encoded without it"),
        "uncorrected" => Some("earlier losses could not be made up for; the sums have no factor"),
        "uncoupled" => Some("rows were solved one by one; the sums of gradients have no factor"),
        "large-error" => {
            Some("the error is at least half as large as the weights; give it another format with --set")
        }
        "all-zero" => {
            Some("all weights became zero; they are too small for the format, give it another one with --set")
        }
        "dead-columns" => Some("some input columns were zero in all of the calibration text"),
        _ => None,
    };
    flags.iter().filter_map(text).map(|text| format!("{name}: {text}")).collect()
}

fn fallback_warnings(assignments: &[Assignment]) -> Vec<String> {
    let mut groups: BTreeMap<(&str, &str, usize), Vec<&str>> = BTreeMap::new();
    for a in assignments {
        if let Some(wanted) = a.fallback_from {
            let key = (wanted.name(), a.format.name(), a.entry.shape.columns());
            groups.entry(key).or_default().push(&a.entry.name);
        }
    }
    let describe = |((wanted, got, columns), names): ((&str, &str, usize), Vec<&str>)| {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        format!("{}{more}: rows of {columns} are not whole blocks of {wanted}; written as {got}", names[0])
    };
    groups.into_iter().map(describe).collect()
}
