//! A unit (the tensors that are solved and saved together) and its file.
//!
//! The file holds the length of a JSON header (u64, little-endian), the header, and the bytes of all tensors.
//! Invariant: for any file content, a parsed unit holds exactly the planned tensors. Not covered here: digests; see
//! `work_folder`.

#[cfg(test)]
mod tests;

use crate::Error;
use crate::solve::{Flag, Settings, Solved};
use crate::work_folder::WorkFolder;
use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_io::PlannedTensor;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Maximum length of a unit's header, in bytes.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// Maximum number of sweeps that saved settings may contain.
const MAX_SWEEPS: usize = 64;

/// Tensors that are solved and saved together.
#[derive(Clone)]
pub struct Unit {
    /// The tensors with their names, in the order of the plan.
    pub tensors: Vec<(String, Solved)>,
    /// Digests of the residual streams after a block: first of the float network, then of the quantized network. `None`
    /// for a unit without residual streams.
    pub residuals: Option<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    tensors: Vec<TensorHeader>,
    residuals: Option<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct TensorHeader {
    name: String,
    format: String,
    dimensions: Vec<usize>,
    squared_error: f64,
    squared_sum: f64,
    flags: Vec<Flag>,
    chosen: Option<Settings>,
}

/// Returns true if a saved tensor may have this flag. Only the flags that solving sets are saved.
fn is_saved(flag: Flag) -> bool {
    use Flag::{DeadColumns, Lattice, Uncalibrated, Uncorrected, Uncoupled};
    matches!(flag, Uncalibrated | DeadColumns | Lattice | Uncorrected | Uncoupled)
}

impl Unit {
    /// Saves the unit under `name`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn save(&self, work: &WorkFolder, name: &str) -> Result<(), Error> {
        work.save_sealed(&file_name(name), self.to_bytes())
    }

    /// Loads the unit `name` with the tensors of `plan`, in the same order; `None` if the unit was not saved.
    ///
    /// # Errors
    /// A file whose content is not the saved content, or that holds other tensors.
    pub fn load(work: &WorkFolder, name: &str, plan: &[PlannedTensor]) -> Result<Option<Self>, Error> {
        let name = file_name(name);
        let tensors = plan.iter().map(|t| t.format.tensor_bytes(&t.shape).unwrap_or(0));
        let max_bytes = tensors.fold(8 + MAX_HEADER_BYTES, usize::saturating_add);
        let Some(content) = work.load_sealed(&name, max_bytes)? else { return Ok(None) };
        Self::parse(&content, plan).map(Some).ok_or_else(|| work.damaged(&name))
    }

    /// Returns the content of the unit's file, without the digest.
    fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            tensors: self
                .tensors
                .iter()
                .map(|(name, solved)| TensorHeader {
                    name: name.clone(),
                    format: solved.tensor.format().name().to_owned(),
                    dimensions: solved.tensor.shape().dimensions().to_vec(),
                    squared_error: solved.squared_error,
                    squared_sum: solved.squared_sum,
                    flags: solved.flags.clone(),
                    chosen: solved.chosen,
                })
                .collect(),
            residuals: self.residuals.clone(),
        };
        let json = serde_json::to_vec(&header).expect("a header of names and numbers is JSON");
        let mut content = (json.len() as u64).to_le_bytes().to_vec();
        content.extend_from_slice(&json);
        self.tensors.iter().for_each(|(_, solved)| content.extend_from_slice(solved.tensor.bytes()));
        content
    }

    /// Parses a file's content; `None` if the content does not hold the planned tensors in the same order.
    fn parse(content: &[u8], plan: &[PlannedTensor]) -> Option<Self> {
        let length = usize::try_from(u64::from_le_bytes(*content.first_chunk::<8>()?)).ok()?;
        let (json, mut data) = content[8..].split_at_checked(length)?;
        if json.len() > MAX_HEADER_BYTES {
            return None;
        }
        let header: Header = serde_json::from_slice(json).ok()?;
        if header.tensors.len() != plan.len() {
            return None;
        }
        let mut tensors = Vec::new();
        for (tensor, planned) in header.tensors.into_iter().zip(plan) {
            let (shape, format) = (Shape::new(&tensor.dimensions).ok()?, format::by_name(&tensor.format)?);
            let sums = [tensor.squared_error, tensor.squared_sum];
            if tensor.name != planned.name
                || shape != planned.shape
                || format != planned.format
                || sums.iter().any(|sum| !(sum.is_finite() && *sum >= 0.0))
                || !tensor.chosen.as_ref().is_none_or(are_valid)
            {
                return None;
            }
            let flags = tensor.flags;
            if !flags.iter().copied().all(is_saved) {
                return None;
            }
            let (bytes, rest) = data.split_at_checked(format.tensor_bytes(&shape).ok()?)?;
            data = rest;
            let solved = Solved {
                tensor: Tensor::new(shape, format, Bytes::from(bytes.to_vec())).ok()?,
                squared_error: tensor.squared_error,
                squared_sum: tensor.squared_sum,
                not_finite: None,
                overflow: None,
                chosen: tensor.chosen,
                flags,
            };
            tensors.push((tensor.name, solved));
        }
        data.is_empty().then_some(Self { tensors, residuals: header.residuals })
    }
}

/// Returns true if a method can have chosen these settings. The next blocks reuse the settings, so invalid settings
/// must be rejected.
fn are_valid(settings: &Settings) -> bool {
    let damping = |x: f32| x.is_finite() && x >= 0.0;
    damping(settings.damping)
        && settings.correction_damping.is_none_or(damping)
        && settings.sweeps <= MAX_SWEEPS
}

/// Returns the file name of the unit `name`.
pub fn file_name(name: &str) -> String {
    format!("{name}.unit")
}

/// Opens the work folder of the run with this `key` and loads `unit` (the tensors of `plan`), `tokens` and `sums`
/// (`count` words each) as a resumed run does. Tests call this function with hostile folders.
///
/// # Errors
/// The errors of a resumed run.
pub fn read_work_folder(
    folder: &Path,
    key: &str,
    [unit, tokens, sums]: [&str; 3],
    plan: &[PlannedTensor],
    count: usize,
) -> Result<(), Error> {
    let work = WorkFolder::open(folder, key, false)?;
    Unit::load(&work, unit, plan)?;
    work.load_tokens(tokens, count, count)?;
    if work.has_floats(sums)? {
        work.load_floats(sums, count)?;
    }
    Ok(())
}
