//! Assigns a format to each tensor of a model.

use super::file_type::{Assignment, FILE_TYPES, assign, format_file_type, is_always_wide};
use super::recipe::{Formats, Recipe};
use crate::Error;
use kvant_core::{FormatRef, format};
use kvant_io::{Meta, PlannedTensor};
use kvant_model::{Entry, Weights};
use std::collections::BTreeMap;

/// Returns the format of each tensor, without quantizing anything.
///
/// # Errors
/// [`Error::ReadOnly`] if a tensor is to get a format that has no encoder; [`Error::AlreadyQuantized`] if a quantized
/// tensor changes its format and the recipe does not allow requantization.
pub fn plan_tensors(weights: &Weights, recipe: &Recipe) -> Result<Vec<Assignment>, Error> {
    let mut assignments = assign(
        weights.spec(),
        weights.entries(),
        recipe.file_type,
        recipe.pure,
        recipe.method.need(),
        &recipe.overrides,
    );
    let allocated = recipe.formats.iter().flatten();
    for (name, &format) in allocated {
        for assignment in assignments.iter_mut().filter(|a| a.entry.name == *name) {
            (assignment.format, assignment.fallback_from) = (format, None);
        }
    }
    for assignment in assignments.iter_mut().filter(|a| is_always_wide(&a.entry)) {
        assignment.format = kept_format(weights, &assignment.entry);
    }
    if let Some(a) = assignments.iter().find(|a| a.changes() && a.format.encoder().is_none()) {
        return Err(Error::ReadOnly { tensor: a.entry.name.clone(), format: a.format.name() });
    }
    let requantized =
        assignments.iter().find(|a| a.entry.format.is_quantized() && a.format != a.entry.format);
    match requantized {
        Some(a) if !recipe.allow_requantize => Err(Error::AlreadyQuantized {
            path: weights.path().to_owned(),
            tensor: a.entry.name.clone(),
            format: a.entry.format.name(),
        }),
        _ => Ok(assignments),
    }
}

impl Recipe {
    /// Returns the recipe with formats that were chosen for a budget. The file type of the new recipe is the file type
    /// of the format that holds the most weights.
    ///
    /// # Errors
    /// See [`plan_tensors`].
    pub fn allocated(self, weights: &Weights, formats: Formats) -> Result<Self, Error> {
        let recipe = Self { formats: Some(formats), ..self };
        let number = prevailing_file_type(&plan_tensors(weights, &recipe)?);
        let file_type = FILE_TYPES.iter().find(|t| t.number == number).unwrap_or(recipe.file_type);
        Ok(Self { file_type, ..recipe })
    }
}

/// Assigns to every tensor the format that it has in the input. Vectors and routers of a Hugging Face checkpoint get `f32`.
pub fn kept(weights: &Weights) -> Vec<Assignment> {
    let entries = weights.entries().iter().cloned();
    let format = |entry: &Entry| kept_format(weights, entry);
    entries.map(|entry| Assignment { format: format(&entry), entry, fallback_from: None }).collect()
}

/// Returns the format of a tensor that is not quantized. As in upstream's converter, vectors and routers are widened to
/// `f32`.
fn kept_format(weights: &Weights, entry: &Entry) -> FormatRef {
    let hugging_face = matches!(weights.checkpoint().meta(), Meta::HuggingFace(_));
    if is_always_wide(entry) && hugging_face { &format::F32 } else { entry.format }
}

/// Returns upstream's number of the file type for the format that holds the most weights.
pub fn prevailing_file_type(assignments: &[Assignment]) -> u32 {
    let mut elements: BTreeMap<&str, usize> = BTreeMap::new();
    for a in assignments {
        *elements.entry(a.format.name()).or_default() += a.entry.shape.elements();
    }
    let most = elements.into_iter().max_by_key(|(_, n)| *n).map_or("f32", |(name, _)| name);
    format_file_type(most)
}

/// Returns the number of bytes of tensor data with these formats.
pub fn planned_bytes(assignments: &[Assignment]) -> u64 {
    let bytes = |a: &Assignment| a.format.tensor_bytes(&a.entry.shape).map_or(0, |n| n as u64);
    assignments.iter().map(bytes).sum()
}

/// Returns the planned tensors of a file with these formats, in the same order.
pub fn planned<'a>(assignments: impl IntoIterator<Item = &'a Assignment>) -> Vec<PlannedTensor> {
    let tensor =
        |a: &Assignment| PlannedTensor { name: a.entry.name.clone(), shape: a.entry.shape, format: a.format };
    assignments.into_iter().map(tensor).collect()
}

/// Returns the name of a linear layer (map) without the block prefix: `attn_q.weight` for `blk.3.attn_q.weight`.
pub fn map_kind(name: &str) -> &str {
    block_and_kind(name).map_or(name, |(_, kind)| kind)
}

/// Splits a map's name into block and kind: `blk.3.attn_q.weight` gives 3 and `attn_q.weight`. Returns `None` for the
/// name of a tensor outside the blocks.
pub fn block_and_kind(name: &str) -> Option<(usize, &str)> {
    let (block, kind) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((block.parse().ok()?, kind))
}
