//! Self-generated text: contexts that the float network writes, for the calibration of the quantized network.
//!
//! ```text
//! for each context: the first 8 tokens are copied from a calibration context (in every fourth context from noise)
//!                   each further token is drawn from the float network's output distribution
//! ```
//!
//! Text of one kind uses only few directions of a network's activations. Self-generated text uses the directions that
//! the network has learnt, and the network can generate any amount of text. docs/quality.md gives the measured effect.
//! Source: Liu et al., LLM-QAT, arXiv 2305.17888, section 2.1; the authors draw training text in this way.
//!
//! The work folder stores contexts batch by batch, so that a stopped run continues with the next batch. Invariant: the
//! tokens depend only on the model, the calibration text, the seed and the kind of processor. Not covered here:
//! networks that do not fit in memory. A network of this size would read all weights from the disk for every token, so
//! the caller requests 0 contexts.

use super::{Calibration, Seed};
use crate::work_folder::{self, WorkFolder};
use crate::{Error, Progress};
use kvant_kernels::Backend;
use kvant_model::{Sequence, Spec, Transformer, Weights, continue_together};

/// Number of given tokens at the start of a self-generated context. A context must be longer than this number.
pub const SELF_GENERATED_START: usize = 8;
/// If the calibration has noise, every fourth self-generated context begins with noise.
const NOISE_EVERY: usize = 4;
/// Maximum size of all KV caches of a batch, in bytes. The KV cache of a single sequence may exceed this limit.
const CACHE_BYTES: usize = 3 << 29;
/// Maximum number of sequences in a batch.
const MAX_BATCH: usize = 63;

/// Returns the number of sequences in a batch, for `count` sequences of `length` tokens. [`CACHE_BYTES`] limits this
/// number. All batches have about the same size, because a small batch takes the same number of steps as a large batch.
fn batch_size(spec: &Spec, count: usize, length: usize) -> usize {
    let most = (CACHE_BYTES / Sequence::new(spec, length).bytes(length).max(1)).clamp(1, MAX_BATCH);
    count.div_ceil(count.div_ceil(most).max(1)).max(1)
}

/// Returns an upper bound of the private bytes that writing `count` contexts of `length` tokens takes.
pub fn self_generated_bytes(spec: &Spec, count: usize, length: usize, threads: usize) -> usize {
    if count == 0 {
        return 0;
    }
    let sequences = batch_size(spec, count, length);
    // In addition, each sequence has a row of logits, and each thread has the sampler's buffers.
    sequences * (Sequence::new(spec, length).bytes(length) + 2 * size_of::<f32>() * spec.vocabulary)
        + threads * 16 * spec.vocabulary
}

/// Returns `calibration` with `count` more contexts that the network writes. Loads contexts that `work` already holds.
///
/// # Errors
/// Errors of the network and of the work folder; [`Error::Interrupted`].
pub fn with_self_generated(
    weights: &Weights,
    calibration: &Calibration,
    count: usize,
    seed: Seed,
    work: &WorkFolder,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Calibration, Error> {
    let (spec, length) = (weights.spec(), calibration.length());
    if count == 0 || length <= SELF_GENERATED_START {
        return Ok(calibration.clone());
    }
    let mut transformer = None;
    let mut written = Vec::with_capacity(count);
    let starts = starts(calibration, count);
    for (batch, starts) in starts.chunks(batch_size(spec, count, length)).enumerate() {
        let name = work_folder::self_generated(batch);
        let saved = work.load_tokens(&name, starts.len() * length, spec.vocabulary)?;
        let tokens = match saved {
            Some(tokens) => tokens,
            None => {
                let transformer = match &mut transformer {
                    Some(loaded) => loaded,
                    none => none.insert(Transformer::load(weights, backend.clone())?),
                };
                let seeds: Vec<u64> =
                    (written.len()..written.len() + starts.len()).map(|i| seed.of(i)).collect();
                let mut report = |tokens: usize| {
                    let done = written.len() * length + starts.len() * tokens;
                    progress.at(done as u64, (count * length) as u64, "text of the model's own");
                    !progress.stop()
                };
                let found = continue_together(transformer, starts, &seeds, length, &mut report)?;
                let tokens: Vec<u32> = found.ok_or(Error::Interrupted)?.into_iter().flatten().collect();
                work.save_tokens(&name, &tokens)?;
                tokens
            }
        };
        written.extend(tokens.chunks_exact(length).map(<[u32]>::to_vec));
    }
    Ok(calibration.clone().with_self_generated(written))
}

/// Returns the given first tokens of each self-generated context.
fn starts(calibration: &Calibration, count: usize) -> Vec<Vec<u32>> {
    let (noise, text): (Vec<usize>, Vec<usize>) =
        (0..calibration.contexts().len()).partition(|&i| calibration.is_noise(i));
    let mut noisy = 0;
    let start = |i: usize| {
        let (context, at) = if i % NOISE_EVERY == NOISE_EVERY - 1 && !noise.is_empty() {
            noisy += 1;
            // After all noise contexts were used, the next round uses the next tokens of each noise context.
            let round = (noisy - 1) / noise.len() % (calibration.length() / SELF_GENERATED_START);
            (noise[(noisy - 1) % noise.len()], round * SELF_GENERATED_START)
        } else {
            (text[i * text.len() / count], 0)
        };
        let context = &calibration.contexts()[context];
        let mut start = context[at..][..SELF_GENERATED_START].to_vec();
        // The context's first token is BOS if the model adds one.
        start[0] = context[0];
        start
    };
    (0..count).map(start).collect()
}
