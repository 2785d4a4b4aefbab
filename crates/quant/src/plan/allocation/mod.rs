//! Chooses the format of each tensor so that the loss is small within a budget of bytes.
//!
//! ```text
//! for each tensor and format: e ← squared error, columns weighted by importance                     (`curve`)
//! for each block, each kind of linear layer (map), embedding and head:
//!     D ← KL divergence between the float network and the network in which only these tensors are quantized
//!                                                                                                   (`variants`)
//! cost of a map's error ← (factor of its block) · (factor of its kind), fitted to all D
//! spend bytes on the tensor where each byte lowers Σ cost · e the most, until the budget is spent   (`spend`)
//! measure the KL divergence of this allocation and of the best named mixes within the budget; take the best named
//!     mix, unless the allocation is clearly better
//! ```
//!
//! The sum of the separate errors only approximates the loss. Some named mixes have a smaller loss than the mix with
//! the smallest sum, so the last step compares the allocation with named mixes. Invariant: the result never exceeds the
//! budget. All measurements use quick encoders, which do not change the order of the results. The influence of solvers
//! on the errors is not measured.

mod curve;
mod spend;
mod variants;

use super::assignments::{block_and_kind, plan_tensors, planned_bytes};
use super::file_type::{Assignment, FILE_TYPES, is_always_wide};
use super::recipe::{Formats, Recipe};
use crate::gather::{Calibration, compared_positions, gather_importance};
use crate::{Error, Progress};
use curve::Curve;
use kvant_kernels::Backend;
use kvant_model::Weights;
use std::collections::BTreeMap;
use variants::Variants;

/// Maximum number of contexts on which the cost of errors is measured.
const COST_CONTEXTS: usize = 4;
/// Maximum number of contexts on which the final candidates are compared.
const CHOICE_CONTEXTS: usize = 8;
/// The allocation is taken only if its loss is at most this share of the best named mix's loss. The allocation is
/// fitted to calibration text, and its loss is measured on a few contexts of the same text. On other text the
/// allocation can be worse than a named mix with almost the same measured loss (docs/quality.md).
const CLEARLY_BETTER: f64 = 0.95;
/// Maximum number of named mixes that are measured and compared with the allocation.
pub const RIVALS: usize = 2;

/// A measured mix of formats.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Candidate {
    /// The name of the mix, with `--pure` if its rules are disabled, or `allocated`.
    pub name: String,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Mean KL divergence on selection text (the part of the calibration text that is held out to choose settings),
    /// with quick encoders, in nats per token.
    pub kld: f64,
}

/// The formats that were chosen for a budget.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Allocation {
    /// The chosen formats.
    #[serde(skip)]
    pub formats: Formats,
    /// The budget: the maximum number of bytes of tensor data.
    pub budget_bytes: u64,
    /// The measured mixes; the first one was chosen.
    pub candidates: Vec<Candidate>,
    /// The share, from 0 to 1, by which 5 % more bytes would reduce the expected KL divergence.
    pub next_5_percent: f64,
}

/// A tensor that is quantized, with its candidate formats.
struct Choice {
    assignment: Assignment,
    curve: Curve,
    /// KL divergence per unit of the squared error in `curve`.
    cost: f64,
}

/// Chooses the best formats within `budget` bytes of tensor data. The budget includes the tensors that keep their
/// format. The recipe's file type has no effect. The recipe's overrides apply.
///
/// # Errors
/// [`Error::NoCalibration`], [`Error::ShortContexts`]; [`Error::Budget`] if even the smallest formats do not fit;
/// errors of reading and of the network.
pub fn allocate(
    weights: &Weights,
    recipe: &Recipe,
    budget: u64,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Allocation, Error> {
    let missing = Error::NoCalibration { method: "of allocation" };
    let calibration = recipe.calibration.as_ref().ok_or(missing)?;
    if compared_positions(calibration.length(), 1).is_empty() {
        return Err(Error::ShortContexts { found: calibration.length() });
    }
    let selection = calibration.selection(CHOICE_CONTEXTS);
    let cost_contexts = selection.first(COST_CONTEXTS);
    let importance = gather_importance(weights, &cost_contexts, backend, progress)?;
    let assignments = plan_tensors(weights, &Recipe { formats: None, ..recipe.clone() })?;
    let (changing, kept): (Vec<_>, Vec<_>) =
        assignments.into_iter().partition(|a| !is_always_wide(&a.entry) && a.format != a.entry.format);
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
    let variants = Variants { weights, importance: &importance, backend, progress, scratch: &recipe.work };
    fit_costs(&variants, &cost_contexts, &mut choices, budget_left)?;
    let spent = spend::spend(&choices, budget_left);
    let more = spend::spend(&choices, budget_left + budget / 20);
    let expected = |formats: &Formats| -> f64 {
        choices
            .iter()
            .filter_map(|c| Some(c.cost * c.curve.error(*formats.get(&c.assignment.entry.name)?)?))
            .sum()
    };
    let next_5_percent = 1.0 - expected(&more) / expected(&spent).max(f64::MIN_POSITIVE);
    let mut mixes = named_mixes(weights, recipe, &choices, budget_left)?;
    mixes.sort_by(|a, b| expected(&a.1).total_cmp(&expected(&b.1)));
    mixes.truncate(RIVALS);
    mixes.insert(0, ("allocated".to_owned(), spent));
    let formats: Vec<&Formats> = mixes.iter().map(|(_, formats)| formats).collect();
    let klds = variants.divergences(&selection, &formats, 1)?;
    let mut measured: Vec<(Candidate, Formats)> = mixes
        .into_iter()
        .zip(klds)
        .map(|((name, formats), kld)| {
            let bytes = (budget - budget_left) + total_bytes(&choices, &formats);
            (Candidate { name, bytes, kld }, formats)
        })
        .collect();
    // Sorts only the named mixes. The allocation stays at index 0.
    measured[1..].sort_by(|a, b| a.0.kld.total_cmp(&b.0.kld));
    if measured.get(1).is_some_and(|(mix, _)| measured[0].0.kld > CLEARLY_BETTER * mix.kld) {
        measured[..2].swap(0, 1);
    }
    let formats = measured[0].1.clone();
    let candidates = measured.into_iter().map(|(candidate, _)| candidate).collect();
    Ok(Allocation { formats, budget_bytes: budget, candidates, next_5_percent })
}

/// Returns the bytes of the quantized tensors with these formats.
fn total_bytes(choices: &[Choice], formats: &Formats) -> u64 {
    let bytes = |c: &Choice| {
        let format = formats.get(&c.assignment.entry.name)?;
        Some(format.tensor_bytes(&c.assignment.entry.shape).ok()? as u64)
    };
    choices.iter().filter_map(bytes).sum()
}

/// Returns all named mixes that fit the budget: each mix with its per-tensor rules, and each mix without rules (pure).
fn named_mixes(
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
            if total_bytes(choices, &formats) <= budget && all.iter().all(|(_, other)| *other != formats) {
                all.push((name, formats));
            }
        }
    }
    Ok(all)
}

/// Measures the cost of errors of every block, every kind of map and every tensor outside the blocks, one group at a
/// time. Fits `cost` of all choices to the measurements.
fn fit_costs(
    variants: &Variants,
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
        let groups_of_tensor = match block_and_kind(name) {
            Some((block, kind)) => vec![Group::Block(block), Group::Kind(kind.to_owned())],
            None => vec![Group::Single(name.to_owned())],
        };
        groups.extend(groups_of_tensor.into_iter().filter(|g| !groups.contains(g)).collect::<Vec<_>>());
    }
    let only = |group: &Group| -> Formats {
        near.iter()
            .filter(|(name, _)| group.has(name))
            .map(|(name, format)| (name.clone(), *format))
            .collect()
    };
    let formats: Vec<_> = groups.iter().map(only).collect();
    let klds = variants.divergences(contexts, &formats.iter().collect::<Vec<_>>(), 2)?;
    let errors: Vec<f64> =
        choices.iter().map(|c| c.curve.error(near[&c.assignment.entry.name]).unwrap_or(0.0)).collect();
    let names: Vec<String> = choices.iter().map(|c| c.assignment.entry.name.clone()).collect();
    // The cost of a tensor is the product of the factors of its groups. For each group, `unit` is the expected
    // divergence if the group's own factor is 1. The new factor is the measured divergence divided by `unit`. Kinds and
    // blocks alternate; the factors converge after a few rounds.
    let mut factors = vec![1.0f64; groups.len()];
    let cost = |factors: &[f64], name: &str, excluded: usize| -> f64 {
        let of = groups.iter().zip(factors).enumerate().filter(|(i, (g, _))| *i != excluded && g.has(name));
        of.map(|(_, (_, factor))| factor).product()
    };
    for _ in 0..20 {
        for kinds in [true, false] {
            for i in 0..groups.len() {
                if matches!(groups[i], Group::Kind(_)) != kinds {
                    continue;
                }
                let members = names.iter().zip(&errors).filter(|(name, _)| groups[i].has(name));
                let unit: f64 = members.map(|(name, error)| error * cost(&factors, name, i)).sum();
                factors[i] = if unit > 0.0 { klds[i].max(1e-9) / unit } else { 0.0 };
            }
        }
    }
    for (choice, name) in choices.iter_mut().zip(&names) {
        choice.cost = cost(&factors, name, usize::MAX);
    }
    Ok(())
}

/// Tensors that are quantized together to measure the cost of their errors. All other tensors keep their format.
#[derive(Clone, PartialEq)]
enum Group {
    /// All maps of a block.
    Block(usize),
    /// The same kind of map in all blocks.
    Kind(String),
    /// One tensor outside the blocks.
    Single(String),
}

impl Group {
    /// Returns true if the tensor belongs to the group.
    fn has(&self, name: &str) -> bool {
        match (self, block_and_kind(name)) {
            (Self::Block(block), Some((b, _))) => *block == b,
            (Self::Kind(kind), Some((_, k))) => kind == k,
            (Self::Single(tensor), None) => tensor == name,
            _ => false,
        }
    }
}
