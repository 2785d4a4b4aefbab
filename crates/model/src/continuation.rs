//! Sequences that a network continues by itself, many together: text of the distribution it has learnt.
//!
//! Tokens are drawn from the whole distribution (temperature 1), each sequence from a random sequence of its own, so
//! that a sequence depends neither on threads nor on which others are made beside it, but for how products of few and
//! of many rows round. Ends of texts are tokens like any other. Left out: stop words, penalties ([`crate::generate`]).

use crate::{Error, Part, Sampler, Sampling, Sequence, Transformer, Want};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Continues each of `starts` to `length` tokens; `seeds` has one number a sequence. `go_on` is asked before every
/// step and told how many tokens each sequence has; once it says no, the result is `None`.
///
/// # Errors
/// As [`Transformer::step`], and broken weights.
pub fn continue_together(
    transformer: &Transformer,
    starts: &[Vec<u32>],
    seeds: &[u64],
    length: usize,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<u32>>>, Error> {
    let shortest = starts.iter().map(Vec::len).min().unwrap_or(0);
    assert!(shortest > 0 && starts.iter().all(|s| s.len() == shortest), "starts of one length");
    let free = |&seed: &u64| Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        seed,
    };
    // Each task locks the one that is its own: never waited for.
    let samplers: Vec<Mutex<Sampler>> =
        seeds.iter().map(|seed| Sampler::new(free(seed)).map(Mutex::new)).collect::<Result<_, _>>()?;
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
    for place in shortest..length {
        if !go_on(place) {
            return Ok(None);
        }
        let logits = transformer.logits(&states);
        let picked: Vec<OnceLock<_>> = samplers.iter().map(|_| OnceLock::new()).collect();
        transformer.backend().pool().run(samplers.len(), &|i| {
            let mut sampler = samplers[i].lock().unwrap_or_else(PoisonError::into_inner);
            picked[i].get_or_init(|| sampler.pick(&logits[i * spec.vocabulary..][..spec.vocabulary], &[]));
        });
        let drawn: Vec<u32> =
            picked.into_iter().filter_map(OnceLock::into_inner).collect::<Result<_, _>>()?;
        texts.iter_mut().zip(&drawn).for_each(|(text, &token)| text.push(token));
        if place + 1 < length {
            let next = sequences.iter_mut().zip(drawn.chunks(1));
            let mut parts: Vec<Part> =
                next.map(|(sequence, tokens)| Part { sequence, tokens, want: Want::Last }).collect();
            states = transformer.step(&mut parts)?;
        }
    }
    Ok(Some(texts))
}
