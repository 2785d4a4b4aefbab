//! Self-generated text: a network continues many sequences in one batch, and samples from its own distribution.
//!
//! Tokens are sampled from the whole distribution (temperature 1). Each sequence has its own random generator.
//! A sequence therefore depends neither on the number of threads nor on the other sequences, except that matrix
//! products with few and with many rows can round differently. An end-of-text token does not stop a sequence. Not here:
//! stop words and penalties ([`crate::generate`]).

use crate::{Error, Part, Sampler, Sampling, Sequence, Transformer, Want};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Continues each of `starts` until it has `length` tokens. All starts have the same length. `seeds` has one seed per
/// sequence. Before each step, `go_on` receives the current number of tokens per sequence. If it returns false, the
/// result is `None`.
///
/// # Errors
/// Errors of [`Transformer::step`], and of the sampler if the logits are not finite.
///
/// Panics if there are no starts, if they are empty or differ in length, or if the number of seeds is not that of the
/// starts.
pub fn continue_together(
    transformer: &Transformer,
    starts: &[Vec<u32>],
    seeds: &[u64],
    length: usize,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<u32>>>, Error> {
    let start_length = starts.iter().map(Vec::len).min().unwrap_or(0);
    assert!(start_length > 0 && starts.iter().all(|s| s.len() == start_length), "starts of one length");
    // Each task locks only its own sampler, so no task waits for a lock.
    let samplers: Vec<Mutex<Sampler>> = seeds
        .iter()
        .map(|seed| Sampler::new(Sampling::unrestricted(*seed)).map(Mutex::new))
        .collect::<Result<_, _>>()?;
    assert_eq!(samplers.len(), starts.len(), "a seed for every sequence");
    let spec = transformer.spec();
    let empty = Sequence::new(spec, length);
    let mut sequences: Vec<Sequence> =
        starts.iter().map(|_| empty.fork().reserved()).collect::<Result<_, _>>()?;
    let mut texts = starts.to_vec();
    let mut states = Vec::with_capacity(starts.len() * spec.hidden);
    for (sequence, start) in sequences.iter_mut().zip(starts) {
        states.extend(transformer.prefill(sequence, start, Want::Last)?);
    }
    for position in start_length..length {
        if !go_on(position) {
            return Ok(None);
        }
        let logits = transformer.logits(&states);
        let picks: Vec<OnceLock<_>> = samplers.iter().map(|_| OnceLock::new()).collect();
        transformer.backend().pool().run(samplers.len(), &|i| {
            let mut sampler = samplers[i].lock().unwrap_or_else(PoisonError::into_inner);
            picks[i].get_or_init(|| sampler.pick(&logits[i * spec.vocabulary..][..spec.vocabulary], &[]));
        });
        let sampled: Vec<u32> =
            picks.into_iter().filter_map(OnceLock::into_inner).collect::<Result<_, _>>()?;
        texts.iter_mut().zip(&sampled).for_each(|(text, &token)| text.push(token));
        if position + 1 < length {
            let next = sequences.iter_mut().zip(sampled.chunks(1));
            let mut parts: Vec<Part> =
                next.map(|(sequence, tokens)| Part { sequence, tokens, want: Want::Last }).collect();
            states = transformer.step(&mut parts)?;
        }
    }
    Ok(Some(texts))
}
