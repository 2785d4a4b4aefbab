//! Compares each step and the whole chain with the oracle.

mod draws;
mod oracle;
mod settings;
mod steps;

use super::candidates::Candidates;
use super::dry::Breakers;
use super::{Sampler, SamplerError, Sampling, TokenMask};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const VOCABULARY: usize = 60;

/// Logits in steps of 1/4, so that many of them are equal. One in nine is minus infinity.
fn logits(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let one = |_| match random.next_u32() {
        draw if draw.is_multiple_of(9) => f32::NEG_INFINITY,
        draw => (draw % 41) as f32 / 4.0 - 5.0,
    };
    (0..VOCABULARY).map(one).collect()
}

/// Logits without ties, so that no rounding decides which token a step removes.
fn distinct(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..VOCABULARY).map(|_| random.next_u32() as f32 / u32::MAX as f32 * 10.0 - 5.0).collect()
}

fn wide(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|x| f64::from(*x)).collect()
}

/// Settings with every step off.
fn off() -> Sampling {
    Sampling::unrestricted(5)
}

/// A sampler whose tokens have these texts.
fn sampler(sampling: Sampling, texts: &[&str]) -> Sampler {
    let texts = texts.iter().map(|text| text.as_bytes().to_vec());
    let breakers = Breakers::of_texts(&sampling.dry.sequence_breakers, texts);
    sampling.check().unwrap();
    Sampler::of(super::chain::chain(&sampling), sampling, breakers)
}

/// The probability of each token after all steps.
fn distribution(sampler: &mut Sampler, logits: &[f32], recent: &[u32]) -> Vec<f64> {
    let mut candidates = Candidates::new(logits, None).unwrap();
    sampler.run_chain(&mut candidates, recent).unwrap();
    let mut distribution = vec![0.0; logits.len()];
    for (id, p) in candidates.ids().iter().zip(candidates.probabilities()) {
        assert_eq!(std::mem::replace(&mut distribution[*id as usize], p), 0.0, "token {id} twice");
    }
    distribution
}

fn assert_close(found: &[f64], expected: &[f64], context: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let near = (a - b).abs() <= 2e-6 && (*a > 0.0) == (*b > 0.0);
        assert!(near, "{context}: token {i}: {a}, expected {b}");
    }
}

/// A mask gives the same choices as a vocabulary that consists only of the allowed tokens.
#[test]
fn a_mask_chooses_as_if_nothing_else_were_there() {
    for seed in 0..40 {
        let all = distinct(seed);
        let allowed: Vec<u32> =
            (0..VOCABULARY as u32).filter(|id| (id * 7 + seed as u32).is_multiple_of(5)).collect();
        let mut mask = TokenMask::none(VOCABULARY);
        allowed.iter().for_each(|&id| mask.allow(id));
        let few: Vec<f32> = allowed.iter().map(|&id| all[id as usize]).collect();
        let base = Sampling { seed, min_p: 0.0, ..Sampling::default() };
        let mut dynamic = off();
        dynamic.dynamic_temperature.range = 0.9;
        let mut xtc = Sampling { seed, ..off() };
        (xtc.xtc.probability, xtc.xtc.threshold) = (0.5, 0.2);
        let mut mirostat = Sampling { seed, ..off() };
        (mirostat.mirostat.version, mirostat.mirostat.target_entropy) = (2, 1.0);
        for sampling in [
            Sampling { temperature: 0.0, ..base.clone() },
            Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, ..base.clone() },
            Sampling { temperature: 0.7, top_k: 5, top_p: 0.9, ..base },
            Sampling { seed, typical_p: 0.6, top_n_sigma: 1.5, ..off() },
            dynamic,
            xtc,
            mirostat,
        ] {
            let found = Sampler::new(sampling.clone()).unwrap().pick_allowed(&all, &[], &mask).unwrap();
            let expected = Sampler::new(sampling.clone()).unwrap().pick(&few, &[]).unwrap();
            assert_eq!(found, allowed[expected as usize], "{seed} {sampling:?}");
        }
    }
}

/// The same seed chooses the same token, and the log probabilities are those of the oracle's definition: the softmax over
/// the best three logits, divided by the temperature.
#[test]
fn log_probabilities_after_sampling_are_those_of_the_choice() {
    for seed in 0..20 {
        let all = distinct(seed);
        let sampling = Sampling { temperature: 0.7, top_k: 3, top_p: 1.0, min_p: 0.0, seed, ..off() };
        let expected = Sampler::new(sampling.clone()).unwrap().pick(&all, &[]).unwrap();
        let mut sampler = Sampler::new(sampling).unwrap();
        let (token, found) = sampler.pick_with_log_probabilities(&all, &[], None, 10).unwrap();
        assert_eq!(token, expected);
        let mut best: Vec<u32> = (0..all.len() as u32).collect();
        best.sort_by(|a, b| all[*b as usize].total_cmp(&all[*a as usize]));
        best.truncate(3);
        let weight = |id: u32| (f64::from(all[id as usize]) / 0.7).exp();
        let total: f64 = best.iter().map(|id| weight(*id)).sum();
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), best);
        for (id, value) in found.top.iter().copied().chain([(token, found.token)]) {
            assert!((f64::from(value) - (weight(id) / total).ln()).abs() < 1e-5, "{seed}: {id} {value}");
        }
        let greedy = Sampling { temperature: 0.0, seed, ..off() };
        let mut greedy = Sampler::new(greedy).unwrap();
        let (token, found) = greedy.pick_with_log_probabilities(&all, &[], None, 2).unwrap();
        assert_eq!((token, found.token, found.top), (best[0], 0.0, vec![(best[0], 0.0)]));
    }
}

#[test]
fn nothing_to_choose_from_is_an_error() {
    let mut sampler = Sampler::new(Sampling::default()).unwrap();
    let none = TokenMask::none(VOCABULARY);
    let mut short = TokenMask::none(1);
    short.allow(0);
    let impossible = [f32::NEG_INFINITY; 3];
    assert_eq!(sampler.pick_allowed(&logits(1), &[], &none), Err(SamplerError::NoneAllowed));
    assert_eq!(sampler.pick(&impossible, &[]), Err(SamplerError::NoneAllowed));
    assert_eq!(sampler.pick_allowed(&impossible, &[], &short), Err(SamplerError::NoneAllowed));
    assert_eq!(sampler.pick(&[], &[]), Err(SamplerError::Empty));
    for value in [f32::NAN, f32::INFINITY] {
        assert!(matches!(sampler.pick(&[0.0, value], &[]), Err(SamplerError::NotFinite { token: 1, .. })));
        // A forbidden token is not looked at.
        assert_eq!(sampler.pick_allowed(&[0.0, value], &[], &short), Ok(0));
    }
}

/// With one token, every step keeps this token.
#[test]
fn one_token_is_always_chosen() {
    let mut all = Sampling { top_k: 1, top_p: 0.0, min_p: 1.0, typical_p: 0.0, top_n_sigma: 0.1, ..off() };
    all.repeat_penalty = 3.0;
    (all.xtc.probability, all.xtc.threshold) = (1.0, 0.0);
    all.dry.multiplier = 1.0;
    for temperature in [0.0, 0.5] {
        for range in [0.0, 1.0] {
            for version in [0, 2] {
                let mut sampling = Sampling { temperature, ..all.clone() };
                sampling.dynamic_temperature.range = range;
                sampling.mirostat.version = version;
                let mut sampler = sampler(sampling, &["a"]);
                for logit in [-3e38, -1.0, 0.0, 3e38] {
                    assert_eq!(sampler.pick(&[logit], &[0, 0, 0, 0]), Ok(0));
                }
            }
        }
    }
}

#[test]
fn log_probabilities_are_those_of_a_plain_softmax() {
    let all = distinct(3);
    let expected = oracle::softmax(&wide(&all), 1.0);
    let near = |log: f32, id: u32| (f64::from(log) - expected[id as usize].ln()).abs() < 1e-5;
    let found = super::LogProbabilities::new(&all, 17, 5).unwrap();
    assert!(near(found.token, 17));
    let mut order: Vec<u32> = (0..VOCABULARY as u32).collect();
    order.sort_by(|a, b| all[*b as usize].total_cmp(&all[*a as usize]));
    assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order[..5]);
    assert!(found.top.iter().all(|(id, log)| near(*log, *id)));
    assert!(super::LogProbabilities::new(&all, VOCABULARY as u32, 5).is_err());
    assert!(super::LogProbabilities::new(&[f32::NAN], 0, 1).is_err());
    assert_eq!(super::LogProbabilities::new(&all, 17, 0).unwrap().top, []);
}
