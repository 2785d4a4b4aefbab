//! The job `quantize`: makes a smaller file from a checkpoint and a recipe.
//!
//! Not covered here: solving layers; see `solve` and `walk`. Writing the file; see `write`.

use crate::gather::{Calibration, gather_importance};
use crate::plan::{Assignment, Recipe, plan_tensors, planned, planned_bytes};
use crate::solve::{Flag, Layer, Need, importance_flags, is_zero};
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

/// Quantizes `weights` with the settings of `recipe`, writes the result to `output` (GGUF), and checks the written
/// file.
///
/// # Errors
/// Errors of reading, solving, writing and checking. On an error no file is created at `output`.
pub fn quantize(
    weights: &Weights,
    recipe: &Recipe,
    output: &Path,
    force: bool,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    // An output that cannot be written must cause an error before the long work starts.
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
    // The key of the work folder must include all metadata that changes activations: rotary settings, epsilon,
    // tokenizer.
    let settings = format!("{metadata:?}");
    let work = open_work(recipe, &assignments, &card.input_blake3, &settings, backend)?;
    let mut walk = work.as_ref().map(|(work, calibration)| {
        let (assignments, calibration) = (&assignments, (*calibration).clone());
        Walk { weights, recipe, assignments, calibration, work, backend, progress, cost: RefCell::default() }
    });
    let mut solutions = walk.as_mut().map(Walk::run).transpose()?;
    let gathered_importance;
    let importance = match (&recipe.importance, recipe.method.need(), &recipe.calibration) {
        (Some(given), _, _) => Some(given),
        (None, Need::Importance, Some(calibration)) => {
            gathered_importance = gather_importance(weights, calibration, backend, progress)?;
            Some(&gathered_importance)
        }
        _ => None,
    };
    let mean_squares = |assignment: &Assignment| -> Result<Option<Vec<f32>>, Error> {
        let Some(importance) = importance else { return Ok(None) };
        importance.mean_square(
            &assignment.entry.name,
            assignment.entry.shape.columns(),
            assignment.entry.experts(),
        )
    };
    // In the file, the card precedes the tensors. So all warnings must be known before the tensors are written.
    for assignment in assignments.iter().filter(|a| a.changes()) {
        let mut flags = match (&solutions, recipe.method.need()) {
            (Some(solutions), _) => solutions.flags(&assignment.entry.name).to_vec(),
            (None, Need::Importance) if assignment.format.grid().is_some() => {
                importance_flags(mean_squares(assignment)?.as_deref())
            }
            _ => Vec::new(),
        };
        if is_zero(&weights.tensor(&assignment.entry.name)?) {
            flags.push(Flag::Zero);
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
        let importance = mean_squares(assignment)?;
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

/// Returns the card with all values that are known before the tensors are solved. The other values are empty.
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

/// Returns an upper bound of the bytes that are not tensor data (metadata, card, padding), for a file whose formats are
/// chosen for a budget.
///
/// # Errors
/// Errors of planning the tensors and of describing the network as GGUF metadata.
pub fn overhead_bytes(weights: &Weights, recipe: &Recipe) -> Result<u64, Error> {
    let assignments = plan_tensors(weights, recipe)?;
    let mut metadata = export::gguf_metadata(weights)?;
    metadata.set("general.quantization_version", Value::U32(2));
    metadata.set("general.file_type", Value::U32(recipe.file_type.number));
    // Assumes the largest possible card, because formats and warnings are not known yet.
    metadata.set(CARD_KEY, Value::String(" ".repeat(CARD_LIMIT_BYTES)));
    let tensors: Vec<PlannedTensor> = planned(&assignments);
    let padding = tensors.len() as u64 * 32;
    let file = kvant_io::file_bytes(weights.path(), &Plan { metadata, tensors })?;
    Ok(file - planned_bytes(&assignments) + padding)
}

/// Version of the work folder's content. Increase the version when the file layout of the folder changes, or when a
/// method computes other values.
const WORK_FORMAT: u32 = 2;

/// Opens the work folder of a method that walks through the network. Returns the folder and the calibration text;
/// `None` for a method that does not walk through the network.
fn open_work<'a>(
    recipe: &'a Recipe,
    assignments: &[Assignment],
    input_hash: &str,
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
        input_hash,
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

/// Returns warnings for the user that explain a tensor's flags.
fn flag_warnings(name: &str, flags: &[Flag]) -> Vec<String> {
    flags.iter().filter_map(|flag| flag.warning()).map(|text| format!("{name}: {text}")).collect()
}

/// Returns warnings about tensors whose row length did not allow the wanted format. Tensors with the same wanted
/// format, the same written format and the same row length share one warning.
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
