//! The format that each tensor of a model gets.

use super::file_type::{Assignment, FILE_TYPES, FileType, assign};
use super::recipe::{Formats, Recipe};
use crate::Error;
use kvant_core::{FormatRef, format};
use kvant_io::{Meta, PlannedTensor};
use kvant_model::{Entry, Weights};
use std::collections::BTreeMap;

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

impl Recipe {
    /// The same with formats found for a budget, under the file type of the format that most weights have.
    ///
    /// # Errors
    /// As [`plan_tensors`].
    pub fn allocated(self, weights: &Weights, formats: Formats) -> Result<Self, Error> {
        let recipe = Self { formats: Some(formats), ..self };
        let number = prevailing_file_type(&plan_tensors(weights, &recipe)?);
        let file_type = FILE_TYPES.iter().find(|t| t.number == number).unwrap_or(recipe.file_type);
        Ok(Self { file_type, ..recipe })
    }
}

/// Every tensor in its own format, vectors of a Hugging Face checkpoint in `f32`.
pub fn kept(weights: &Weights) -> Vec<Assignment> {
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
pub fn prevailing_file_type(assignments: &[Assignment]) -> u32 {
    let mut elements: BTreeMap<&str, usize> = BTreeMap::new();
    for a in assignments {
        *elements.entry(a.format.name()).or_default() += a.entry.shape.elements();
    }
    let most = elements.into_iter().max_by_key(|(_, n)| *n).map_or("f32", |(name, _)| name);
    FileType::by_name(most).map_or(0, |t| t.number)
}

/// Bytes of tensor data that a plan comes to.
pub fn planned_bytes(assignments: &[Assignment]) -> u64 {
    let bytes = |a: &Assignment| a.format.tensor_bytes(&a.entry.shape).map_or(0, |n| n as u64);
    assignments.iter().map(bytes).sum()
}

/// The tensors of a file in these formats, in order.
pub fn planned<'a>(assignments: impl IntoIterator<Item = &'a Assignment>) -> Vec<PlannedTensor> {
    let tensor =
        |a: &Assignment| PlannedTensor { name: a.entry.name.clone(), shape: a.entry.shape, format: a.format };
    assignments.into_iter().map(tensor).collect()
}

/// A map's name without its block.
pub fn map_kind(name: &str) -> &str {
    place(name).map_or(name, |(_, kind)| kind)
}

/// The block and the kind of a map: `blk.3.attn_q.weight` is block 3's `attn_q.weight`. `None` outside the blocks.
pub fn place(name: &str) -> Option<(usize, &str)> {
    let (block, kind) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((block.parse().ok()?, kind))
}
