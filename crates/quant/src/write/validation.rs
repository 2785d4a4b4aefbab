//! Validates a written file: reopens it, compares every tensor with the written bytes, decodes copied tensors to find
//! NaN or infinity, and runs one forward pass. Solved tensors were already checked for NaN and infinity.

use super::report::TensorReport;
use crate::Error;
use crate::solve::{Flag, first_not_finite};
use kvant_core::Tensor;
use kvant_io::Limits;
use kvant_kernels::Backend;
use kvant_model::{Transformer, Weights};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;

/// Number of values that one thread decodes in one step.
const PIECE_ELEMENTS: usize = 1 << 16;

/// The expected content of a tensor in a written file.
pub struct Written<'a> {
    /// The tensor's name, format and length in bytes.
    pub report: &'a TensorReport,
    /// blake3 over the written bytes.
    pub digest: blake3::Hash,
}

/// Reopens the file at `temporary`, compares it with `expected`, and returns blake3 over its tensors. Errors name
/// `path`, the final path of the file.
///
/// # Errors
/// [`Error::ReadBack`], [`Error::NotFinite`], [`Error::ForwardPass`]; errors of reading.
pub fn validate(
    temporary: &Path,
    path: &Path,
    expected: &[Written],
    backend: &Backend,
) -> Result<String, Error> {
    let weights = Weights::new(kvant_io::open(temporary, &Limits::default())?)?;
    let written: HashMap<&str, &Written> = expected.iter().map(|w| (w.report.name.as_str(), w)).collect();
    for Written { report, .. } in expected {
        let read_back = || Error::ReadBack { path: path.to_owned(), tensor: report.name.clone() };
        let info = weights.checkpoint().info(&report.name).ok_or_else(read_back)?;
        if info.type_name() != report.format || info.bytes as u64 != report.bytes {
            return Err(read_back());
        }
        if !report.flags.contains(&Flag::Kept) {
            // The values of a solved tensor were checked when it was solved. The digest proves that the bytes are the
            // same.
            continue;
        }
        let tensor = weights.checkpoint().tensor(&report.name)?;
        if let Some((element, value)) = first_not_finite_in(&tensor) {
            let (path, tensor) = (path.to_owned(), report.name.clone());
            return Err(Error::NotFinite { path, tensor, element, value });
        }
    }
    let hash = kvant_io::content_hash_with(weights.checkpoint(), |info| {
        let found = kvant_io::hash(weights.checkpoint().tensor(&info.name)?.bytes());
        match written.get(info.name.as_str()) {
            Some(written) if written.digest == found => Ok(found),
            _ => Err(Error::ReadBack { path: path.to_owned(), tensor: info.name.clone() }),
        }
    })?;
    let hash = hash.to_hex().to_string();
    let network = Transformer::load(&weights, backend.clone())?;
    let count = network.spec().vocabulary.min(network.spec().context).min(4);
    let tokens: Vec<u32> = (0..count as u32).collect();
    let logits = match network.check_logits() {
        Ok(()) => network.next_logits(&mut network.sequence(tokens.len()), &tokens)?,
        Err(_) => network.encode(&[&tokens])?,
    };
    match logits.iter().position(|x| !x.is_finite()) {
        Some(token) => Err(Error::ForwardPass { path: path.to_owned(), token, value: logits[token] }),
        None => Ok(hash),
    }
}

/// Returns the first value of `tensor` that is NaN or infinite, with its index.
fn first_not_finite_in(tensor: &Tensor) -> Option<(usize, f32)> {
    let block = tensor.format().block();
    let piece = PIECE_ELEMENTS / block.elements;
    tensor.bytes().par_chunks(piece * block.bytes).enumerate().find_map_first(|(index, bytes)| {
        let mut values = vec![0.0; bytes.len() / block.bytes * block.elements];
        tensor.format().decode(bytes, &mut values);
        let at = first_not_finite(&values)?;
        Some((index * piece * block.elements + at, values[at]))
    })
}
