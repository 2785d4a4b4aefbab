//! Contexts that the float network writes itself, for the calibration of its quantized twin.
//!
//! ```text
//! for each context: its first tokens are those of a calibration context, every fourth time of noise
//!                   every further token is drawn from what the float network expects there
//! ```
//!
//! Text of one kind shows a solver few of the directions that a network uses; what the network writes shows those
//! that it has learnt, and there is as much of it as one likes. What it is worth stands in docs/quality.md. Source:
//! Liu et al., LLM-QAT, arXiv 2305.17888, section 2.1, draws training text so. Contexts lie in the work folder batch
//! by batch, so that a killed run goes on with the next one. Invariant: the tokens depend on the model, the
//! calibration text and the processor's kind alone. Left out: networks too large for memory, of which every token
//! would be read from the disk; the caller asks for none then.

use super::{Calibration, Seed};
use crate::work_folder::{self, WorkFolder};
use crate::{Error, Progress};
use kvant_kernels::Backend;
use kvant_model::{Sequence, Spec, Transformer, Weights, continue_together};

/// Tokens that a context begins with; shorter ones cannot be written.
pub const SELF_GENERATED_START: usize = 8;
/// Every so many contexts one begins with noise, where there is some.
const NOISE_EVERY: usize = 4;
/// Bytes of keys and values that are in memory at once, at most, but for one sequence's.
const CACHE_BYTES: usize = 3 << 29;
/// Most sequences that are continued together.
const TOGETHER: usize = 63;

/// Of `count` sequences of `length` tokens, how many are continued together: as many as bounded memory allows, in
/// batches of about one size, for a small batch takes as many steps as a large one.
fn together(spec: &Spec, count: usize, length: usize) -> usize {
    let most = (CACHE_BYTES / Sequence::new(spec, length).bytes(length).max(1)).clamp(1, TOGETHER);
    count.div_ceil(count.div_ceil(most).max(1)).max(1)
}

/// Private bytes that writing `count` contexts takes at most.
pub fn self_generated_bytes(spec: &Spec, count: usize, length: usize, threads: usize) -> usize {
    if count == 0 {
        return 0;
    }
    let sequences = together(spec, count, length);
    // Beside them a row of logits each, and what each thread draws by.
    sequences * (Sequence::new(spec, length).bytes(length) + 2 * size_of::<f32>() * spec.vocabulary)
        + threads * 16 * spec.vocabulary
}

/// `calibration` with `count` more contexts that the network writes; those that `work` holds already are read.
///
/// # Errors
/// What the network or the work folder says; [`Error::Interrupted`].
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
    for (batch, starts) in starts.chunks(together(spec, count, length)).enumerate() {
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
                let mut go_on = |tokens: usize| {
                    let done = written.len() * length + starts.len() * tokens;
                    progress.at(done as u64, (count * length) as u64, "text of the model's own");
                    !progress.stop()
                };
                let found = continue_together(transformer, starts, &seeds, length, &mut go_on)?;
                let tokens: Vec<u32> = found.ok_or(Error::Interrupted)?.into_iter().flatten().collect();
                work.save_tokens(&name, &tokens)?;
                tokens
            }
        };
        written.extend(tokens.chunks_exact(length).map(<[u32]>::to_vec));
    }
    Ok(calibration.clone().with_self_generated(written))
}

/// What each context begins with.
fn starts(calibration: &Calibration, count: usize) -> Vec<Vec<u32>> {
    let (noise, text): (Vec<usize>, Vec<usize>) =
        (0..calibration.contexts().len()).partition(|&i| calibration.is_noise(i));
    let mut noisy = 0;
    let start = |i: usize| {
        let (context, at) = if i % NOISE_EVERY == NOISE_EVERY - 1 && !noise.is_empty() {
            noisy += 1;
            // Other tokens of the same noise, once all of it has been used.
            let round = (noisy - 1) / noise.len() % (calibration.length() / SELF_GENERATED_START);
            (noise[(noisy - 1) % noise.len()], round * SELF_GENERATED_START)
        } else {
            (text[i * text.len() / count], 0)
        };
        let context = &calibration.contexts()[context];
        let mut start = context[at..][..SELF_GENERATED_START].to_vec();
        // BOS, where the model adds one.
        start[0] = context[0];
        start
    };
    (0..count).map(start).collect()
}
