//! The check of a written file: reopened, every tensor decoded without NaN or infinity, one forward pass.

use crate::{Error, TensorReport};
use kvant_io::Limits;
use kvant_kernels::Backend;
use kvant_model::{KvCache, Transformer, Weights};
use std::path::Path;

/// Reopens `path`, compares it with what was meant to be written, and returns blake3 over its tensors.
///
/// # Errors
/// [`Error::ReadBack`], [`Error::ForwardPass`], or what reading says.
pub fn validate(path: &Path, expected: &[TensorReport], backend: &Backend) -> Result<String, Error> {
    let weights = Weights::new(kvant_io::open(path, &Limits::default())?)?;
    for report in expected {
        let read_back = || Error::ReadBack { path: path.to_owned(), tensor: report.name.clone() };
        let info = weights.checkpoint().info(&report.name).ok_or_else(read_back)?;
        if info.format.name() != report.format || info.bytes as u64 != report.bytes {
            return Err(read_back());
        }
    }
    let hash = kvant_io::content_hash(weights.checkpoint())?.to_hex().to_string();
    let network = Transformer::load(&weights, backend.clone())?;
    let tokens: Vec<u32> = (0..network.spec().vocabulary.min(4) as u32).collect();
    let logits = network.next(&mut KvCache::new(network.spec(), tokens.len()), &tokens)?;
    match logits.iter().position(|x| !x.is_finite()) {
        Some(token) => Err(Error::ForwardPass { path: path.to_owned(), token, value: logits[token] }),
        None => Ok(hash),
    }
}
