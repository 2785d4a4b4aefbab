//! Which format each tensor gets, so that a budget of bytes loses as little as it can.
//!
//! ```text
//! for each tensor and format: e ← squared error, columns weighted by importance      (`curve`)
//! for each block, each kind of map, embedding and head: D ← KL divergence of the network in which that alone is
//!     quantized                                                                       (`variants`)
//! what an error on a map costs ← (its block's part) · (its kind's part), fitted to all D
//! bytes go where they lower Σ cost · e the most for each byte, until none are left    (`spend`)
//! of this and the best named mixes within the budget: the mix with the least measured KL divergence, unless that of the
//!     allocation is clearly less
//! ```
//!
//! A sum of separate errors is a proxy, and proxies have lost to hand-made mixes before; hence the last step.
//! Invariant: never above the budget. Left out: how solvers change the errors; all measuring is done with quick
//! encoders, which keep the order.

mod curve;
mod spend;
mod variants;

use super::assignments::{place, plan_tensors, planned_bytes};
use super::file_type::{Assignment, FILE_TYPES};
use super::recipe::{Formats, Recipe};
use crate::gather::{Calibration, compared, gather_importance};
use crate::{Error, Progress};
use curve::Curve;
use kvant_kernels::Backend;
use kvant_model::Weights;
use std::collections::BTreeMap;
use variants::Variants;

/// Contexts that sensitivities are measured on.
const SENSITIVITY_CONTEXTS: usize = 4;
/// Contexts that the last choice is made on.
const CHOICE_CONTEXTS: usize = 8;
/// What the allocation may lose of the best named mix's loss, to be taken. It is fitted to text like that of calibration, on
/// a few contexts of which this is measured, and one that came out at .97 there lost 1.14 times the mix's on a language that
/// calibration lacked (docs/quality.md).
const CLEARLY: f64 = 0.95;
/// Named mixes that are measured beside the allocation.
pub const RIVALS: usize = 2;

/// One assignment of formats, measured.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Candidate {
    /// A named mix, `--pure` added where it is one, or `allocated`.
    pub name: String,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// KL divergence with quick encoders on selection text.
    pub kld: f64,
}

/// What a budget came to.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Allocation {
    /// What was taken.
    #[serde(skip)]
    pub formats: Formats,
    /// Bytes of tensor data that were allowed.
    pub budget_bytes: u64,
    /// What was measured; the first one was taken.
    pub candidates: Vec<Candidate>,
    /// How much lower the expected KL divergence would be with 5 % more bytes, as a share of it.
    pub next_5_percent: f64,
}

/// A tensor that is quantized, and what it may become.
struct Choice {
    assignment: Assignment,
    curve: Curve,
    /// KL divergence for a unit of error.
    cost: f64,
}

/// Finds the best formats within `budget` bytes of tensor data, kept tensors included. The recipe's file type does not
/// matter; its overrides hold.
///
/// # Errors
/// [`Error::Budget`] where not even the smallest formats fit; what reading or a kernel says.
pub fn allocate(
    weights: &Weights,
    recipe: &Recipe,
    budget: u64,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Allocation, Error> {
    let missing = Error::NoCalibration { method: "of allocation" };
    let calibration = recipe.calibration.as_ref().ok_or(missing)?;
    if compared(calibration.length(), 1).is_empty() {
        return Err(Error::ShortContexts { found: calibration.length() });
    }
    let selection = calibration.selection(CHOICE_CONTEXTS);
    let few = selection.first(SENSITIVITY_CONTEXTS);
    let importance = gather_importance(weights, &few, backend, progress)?;
    let assignments = plan_tensors(weights, &Recipe { formats: None, ..recipe.clone() })?;
    let (changing, kept): (Vec<_>, Vec<_>) = assignments
        .into_iter()
        .partition(|a| a.entry.shape.dimensions().len() > 1 && a.format != a.entry.format);
    let budget_left = budget.saturating_sub(planned_bytes(&kept));
    let (mut choices, count) = (Vec::with_capacity(changing.len()), changing.len() as u64);
    for (index, assignment) in changing.into_iter().enumerate() {
        progress.at(index as u64, count + 1, "errors of formats");
        let fixed = recipe.overrides.iter().any(|o| o.pattern.is_match(&assignment.entry.name));
        let curve = Curve::new(weights, &assignment, fixed, &importance, backend)?;
        choices.push(Choice { assignment, curve, cost: 1.0 });
    }
    let smallest: u64 = choices.iter().map(|c| c.curve.points[0].bytes).sum();
    if smallest > budget_left {
        let needed = planned_bytes(&kept) + smallest;
        return Err(Error::Budget { path: weights.path().to_owned(), budget, needed });
    }
    let walk = Variants { weights, importance: &importance, backend, progress, scratch: &recipe.work };
    sensitivities(&walk, &few, &mut choices, budget_left)?;
    let spent = spend::spend(&choices, budget_left);
    let more = spend::spend(&choices, budget_left + budget / 20);
    let expected = |formats: &Formats| -> f64 {
        choices
            .iter()
            .filter_map(|c| Some(c.cost * c.curve.error(*formats.get(&c.assignment.entry.name)?)?))
            .sum()
    };
    let next_5_percent = 1.0 - expected(&more) / expected(&spent).max(f64::MIN_POSITIVE);
    let mut rivals = named(weights, recipe, &choices, budget_left)?;
    rivals.sort_by(|a, b| expected(&a.1).total_cmp(&expected(&b.1)));
    rivals.truncate(RIVALS);
    rivals.insert(0, ("allocated".to_owned(), spent));
    let maps: Vec<&Formats> = rivals.iter().map(|(_, formats)| formats).collect();
    let klds = walk.divergences(&selection, &maps, 1)?;
    let mut measured: Vec<(Candidate, Formats)> = rivals
        .into_iter()
        .zip(klds)
        .map(|((name, formats), kld)| {
            let bytes = (budget - budget_left) + total(&choices, &formats);
            (Candidate { name, bytes, kld }, formats)
        })
        .collect();
    // The allocation comes first.
    measured[1..].sort_by(|a, b| a.0.kld.total_cmp(&b.0.kld));
    if measured.get(1).is_some_and(|(mix, _)| measured[0].0.kld > CLEARLY * mix.kld) {
        measured[..2].swap(0, 1);
    }
    let formats = measured[0].1.clone();
    let candidates = measured.into_iter().map(|(candidate, _)| candidate).collect();
    Ok(Allocation { formats, budget_bytes: budget, candidates, next_5_percent })
}

/// Bytes of the tensors that are quantized.
fn total(choices: &[Choice], formats: &Formats) -> u64 {
    let bytes = |c: &Choice| {
        let format = formats.get(&c.assignment.entry.name)?;
        Some(format.tensor_bytes(&c.assignment.entry.shape).ok()? as u64)
    };
    choices.iter().filter_map(bytes).sum()
}

/// Every named mix, with its rules and pure, that fits.
fn named(
    weights: &Weights,
    recipe: &Recipe,
    choices: &[Choice],
    budget: u64,
) -> Result<Vec<(String, Formats)>, Error> {
    let mut all: Vec<(String, Formats)> = Vec::new();
    for file_type in FILE_TYPES.iter().filter(|t| t.format().grid().is_some()) {
        for pure in [false, true] {
            let mix = Recipe { file_type, pure, formats: None, ..recipe.clone() };
            let formats: Formats =
                plan_tensors(weights, &mix)?.into_iter().map(|a| (a.entry.name, a.format)).collect();
            let formats: BTreeMap<_, _> = choices
                .iter()
                .filter_map(|c| formats.get_key_value(&c.assignment.entry.name))
                .map(|(name, format)| (name.clone(), *format))
                .collect();
            let name = if pure { format!("{} --pure", file_type.name) } else { file_type.name.to_owned() };
            if total(choices, &formats) <= budget && all.iter().all(|(_, other)| *other != formats) {
                all.push((name, formats));
            }
        }
    }
    Ok(all)
}

/// Measures what errors cost: every block, every kind of map, and what stands outside the blocks, each on its own.
fn sensitivities(
    walk: &Variants,
    contexts: &Calibration,
    choices: &mut [Choice],
    budget: u64,
) -> Result<(), Error> {
    let elements: usize = choices.iter().map(|c| c.assignment.entry.shape.elements()).sum();
    let wanted = budget as f64 * 8.0 / elements.max(1) as f64;
    let near: Formats =
        choices.iter().map(|c| (c.assignment.entry.name.clone(), c.curve.nearest(wanted))).collect();
    let mut groups: Vec<Group> = Vec::new();
    for choice in &*choices {
        let name = choice.assignment.entry.name.as_str();
        let of = match place(name) {
            Some((block, kind)) => vec![Group::Block(block), Group::Kind(kind.to_owned())],
            None => vec![Group::Alone(name.to_owned())],
        };
        groups.extend(of.into_iter().filter(|g| !groups.contains(g)).collect::<Vec<_>>());
    }
    let only = |group: &Group| -> Formats {
        near.iter()
            .filter(|(name, _)| group.has(name))
            .map(|(name, format)| (name.clone(), *format))
            .collect()
    };
    let maps: Vec<_> = groups.iter().map(only).collect();
    let klds = walk.divergences(contexts, &maps.iter().collect::<Vec<_>>(), 2)?;
    let errors: Vec<f64> =
        choices.iter().map(|c| c.curve.error(near[&c.assignment.entry.name]).unwrap_or(0.0)).collect();
    let names: Vec<String> = choices.iter().map(|c| c.assignment.entry.name.clone()).collect();
    // What a group's maps cost, were its own part 1; its part is what makes that the measured divergence. Blocks and
    // kinds in turn; a few rounds settle it.
    let mut parts = vec![1.0f64; groups.len()];
    let cost = |parts: &[f64], name: &str, but: usize| -> f64 {
        let of = groups.iter().zip(parts).enumerate().filter(|(i, (g, _))| *i != but && g.has(name));
        of.map(|(_, (_, part))| part).product()
    };
    for _ in 0..20 {
        for kinds in [true, false] {
            for i in 0..groups.len() {
                if matches!(groups[i], Group::Kind(_)) != kinds {
                    continue;
                }
                let members = names.iter().zip(&errors).filter(|(name, _)| groups[i].has(name));
                let unit: f64 = members.map(|(name, error)| error * cost(&parts, name, i)).sum();
                parts[i] = if unit > 0.0 { klds[i].max(1e-9) / unit } else { 0.0 };
            }
        }
    }
    for (choice, name) in choices.iter_mut().zip(&names) {
        choice.cost = cost(&parts, name, usize::MAX);
    }
    Ok(())
}

/// What is quantized alone to see what it costs.
#[derive(Clone, PartialEq)]
enum Group {
    /// All maps of a block.
    Block(usize),
    /// The same map of all blocks.
    Kind(String),
    /// A tensor outside the blocks.
    Alone(String),
}

impl Group {
    fn has(&self, name: &str) -> bool {
        match (self, place(name)) {
            (Self::Block(block), Some((b, _))) => *block == b,
            (Self::Kind(kind), Some((_, k))) => kind == k,
            (Self::Alone(alone), None) => alone == name,
            _ => false,
        }
    }
}
