//! From a checkpoint and a recipe to a smaller file: what each tensor becomes, what is solved, what is told of it.
//!
//! Left out: solving (`stream`), writing (`write`).

use crate::card::{CARD_KEY, CARD_LIMIT_BYTES, CalibrationCard, Card};
use crate::importance::gather_importance;
use crate::sensitivity;
use crate::solver::{importance_flags, is_zero};
use crate::stream::{Expected, Stream};
use crate::work::Work;
use crate::write::{planned, write};
use crate::{Assignment, Calibration, Cost, Error, FileType, Layer, Need, Recipe, Settings, Solver, assign};
use kvant_core::{FormatRef, format};
use kvant_io::{Meta, Plan, PlannedTensor, Value};
use kvant_kernels::Backend;
use kvant_model::{Entry, Weights, export};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

/// Hears how far the work is, and may stop it.
pub trait Progress: Sync {
    /// `done` of `total` are through (blocks of the network, contexts of text or bytes of input, as the step goes);
    /// `what` is in work.
    fn at(&self, done: u64, total: u64, what: &str);

    /// Whether the user wants to stop.
    fn stop(&self) -> bool;
}

impl Progress for () {
    fn at(&self, _done: u64, _total: u64, _what: &str) {}

    fn stop(&self) -> bool {
        false
    }
}

/// What became of one tensor.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct TensorReport {
    /// GGUF name.
    pub name: String,
    /// Format before.
    pub from: &'static str,
    /// Format after.
    pub format: &'static str,
    /// Bytes after.
    pub bytes: u64,
    /// Root mean square of the error over that of the weights; 0 where nothing changed.
    pub rel_rmse: f64,
    /// What is special: `fallback`, `kept`, `planned`, `zero`, `uncalibrated`, `uncorrected`, `uncoupled`,
    /// `dead-columns`, `lattice`, `large-error`, `all-zero`.
    pub flags: Vec<&'static str>,
    /// What a method that chooses has chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Settings>,
}

/// What became of a model.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes of tensor data before.
    pub bytes_in: u64,
    /// Bytes of tensor data after.
    pub bytes_out: u64,
    /// Bits a weight.
    pub bpw: f64,
    /// Every tensor.
    pub tensors: Vec<TensorReport>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// What the walk through the network cost, where the method makes one; a run that went on counts its own part.
    pub cost: Option<Cost>,
    /// What the result lost on calibration text, where the method walks through the network.
    pub expected: Option<Expected>,
    /// The card in the file, output hash added.
    pub card: Card,
}

/// What each tensor would become, without doing it.
///
/// # Errors
/// [`Error::AlreadyQuantized`] where the recipe does not allow it.
pub fn plan_tensors(weights: &Weights, recipe: &Recipe) -> Result<Vec<Assignment>, Error> {
    let mut assignments = assign(
        weights.spec(),
        weights.entries(),
        recipe.file_type,
        recipe.pure,
        recipe.method.need(),
        &recipe.overrides,
    );
    let found = recipe.formats.iter().flatten();
    for (name, &format) in found {
        for assignment in assignments.iter_mut().filter(|a| a.entry.name == *name) {
            (assignment.format, assignment.fallback_from) = (format, None);
        }
    }
    for assignment in assignments.iter_mut().filter(|a| a.entry.shape.dimensions().len() == 1) {
        assignment.format = kept_format(weights, &assignment.entry);
    }
    let damaged = assignments.iter().find(|a| a.entry.format.grid().is_some() && a.format != a.entry.format);
    match damaged {
        Some(a) if !recipe.allow_requantize => Err(Error::AlreadyQuantized {
            path: weights.path().to_owned(),
            tensor: a.entry.name.clone(),
            format: a.entry.format.name(),
        }),
        _ => Ok(assignments),
    }
}

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
    let mut stream = work.as_ref().map(|(work, calibration)| {
        let (assignments, calibration) = (&assignments, (*calibration).clone());
        Stream {
            weights,
            recipe,
            assignments,
            calibration,
            work,
            backend,
            progress,
            cost: RefCell::default(),
        }
    });
    let mut solutions = stream.as_mut().map(Stream::run).transpose()?;
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
    let mut report = write(weights, &assignments, metadata, &mut source, output, force, backend, progress)?;
    report.expected = solutions.and_then(|s| s.expected);
    report.cost = stream.map(|stream| stream.cost.into_inner());
    if let Some((work, _)) = work {
        work.remove();
    }
    warnings.extend(report.tensors.iter().flat_map(|t| flag_warnings(&t.name, &t.flags)));
    card.output_blake3 = std::mem::take(&mut report.card.output_blake3);
    card.warnings.clone_from(&warnings);
    report.card = card;
    report.warnings = warnings;
    Ok(report)
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
            own_contexts: if recipe.method.need() == Need::Hessian { recipe.own_contexts } else { 0 },
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
) -> Result<Option<(Work, &'a Calibration)>, Error> {
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
        recipe.own_contexts,
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
    let work = Work::open(&recipe.work, &hasher.finalize().to_hex(), recipe.fresh)?;
    Ok(Some((work, calibration)))
}

/// Bytes that a recipe's work folder will take at most; 0 for methods that need none.
pub fn work_bytes(weights: &Weights, recipe: &Recipe, bytes_out: u64) -> u64 {
    let (Need::Hessian, Some(calibration)) = (recipe.method.need(), &recipe.calibration) else { return 0 };
    let spec = weights.spec();
    let stages = spec.blocks.iter().flat_map(|b| b.stages());
    let widest = stages.map(|s| s.slots[0].columns).max().unwrap_or(0);
    let tokens = calibration.tokens() + recipe.own_contexts * calibration.length();
    let contexts = tokens / calibration.length().max(1);
    let sensitivities = match recipe.method.couples() {
        true => sensitivity::work_bytes(spec, contexts, calibration.length()),
        false => 0,
    };
    // Residual streams before, between and after a block, and the widest input; of two networks.
    let streams = (tokens * 2 * (3 * spec.hidden + widest) * size_of::<f32>()) as u64;
    bytes_out + sensitivities + streams
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

/// Writes `weights` to `output` (GGUF), every tensor in the format it has; vectors of a Hugging Face checkpoint
/// widen to `f32`, as upstream's.
///
/// # Errors
/// As [`quantize`].
pub fn convert(
    weights: &Weights,
    output: &Path,
    force: bool,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    kvant_io::OutputFile::check(output, force)?;
    let checkpoint = weights.checkpoint();
    for info in checkpoint.tensors() {
        if let Some(element) = kvant_io::first_rounded(checkpoint, &info.name) {
            let (path, tensor) = (weights.path().to_owned(), info.name.clone());
            return Err(kvant_io::Error::Rounded { path, tensor, element }.into());
        }
    }
    let assignments = kept(weights);
    let export::Exported { mut metadata, notes } = export::gguf_metadata_and_notes(weights)?;
    if metadata.get("general.file_type").is_none() {
        metadata.set("general.file_type", Value::U32(prevailing_file_type(&assignments)));
    }
    let mut widened = |assignment: &Assignment| {
        let weight = weights.tensor(&assignment.entry.name)?;
        let layer = Layer::uncalibrated(&assignment.entry.name, &weight, backend);
        crate::RoundToNearest.solve(&layer, assignment.format)
    };
    let mut report = write(weights, &assignments, metadata, &mut widened, output, force, backend, progress)?;
    report.warnings.extend(notes);
    Ok(report)
}

/// Bytes of tensor data that [`convert`] would write.
pub fn converted_bytes(weights: &Weights) -> u64 {
    planned_bytes(&kept(weights))
}

/// Every tensor in its own format, vectors of a Hugging Face checkpoint in `f32`.
fn kept(weights: &Weights) -> Vec<Assignment> {
    let entries = weights.entries().iter().cloned();
    let format = |entry: &Entry| kept_format(weights, entry);
    entries.map(|entry| Assignment { format: format(&entry), entry, fallback_from: None }).collect()
}

/// The format of a tensor that is not to be quantized: upstream's converter widens vectors, which are small and
/// sensitive.
fn kept_format(weights: &Weights, entry: &Entry) -> FormatRef {
    let vector = entry.shape.dimensions().len() == 1;
    let hugging_face = matches!(weights.checkpoint().meta(), Meta::HuggingFace(_));
    if vector && hugging_face { &format::F32 } else { entry.format }
}

/// The file type of the format that most weights have.
pub(crate) fn prevailing_file_type(assignments: &[Assignment]) -> u32 {
    let mut elements: BTreeMap<&str, usize> = BTreeMap::new();
    for a in assignments {
        *elements.entry(a.format.name()).or_default() += a.entry.shape.elements();
    }
    let most = elements.into_iter().max_by_key(|(_, n)| *n).map_or("f32", |(name, _)| name);
    FileType::by_name(most).map_or(0, |t| t.number)
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

/// Bytes of tensor data that a plan comes to.
pub fn planned_bytes(assignments: &[Assignment]) -> u64 {
    let bytes = |a: &Assignment| a.format.tensor_bytes(&a.entry.shape).map_or(0, |n| n as u64);
    assignments.iter().map(bytes).sum()
}
