//! Compares the distribution after each step, and after all steps, with the oracle.

use super::super::Dry;
use super::*;

/// A step of the oracle, which changes a list of logits.
type OracleStep<'a> = &'a dyn Fn(&mut [f64]);

const TEXTS: [&str; 8] = ["a", "b", " c", "x\n", "y: ", "<", "stop", ">"];

/// Runs one step at temperature 1 over many logits. The oracle changes a copy of the logits.
fn compare(sampling: &Sampling, expected: impl Fn(&mut [f64])) {
    let context = format!("{sampling:?}");
    let single = vec![1.5];
    let one_possible = vec![f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY];
    let equal = vec![0.25; 7];
    let random = (0..60).flat_map(|seed| [logits(seed), distinct(seed)]);
    for logits in random.chain([single, one_possible, equal]) {
        let mut plain = wide(&logits);
        expected(&mut plain);
        let found = distribution(&mut sampler(sampling.clone(), &[]), &logits, &[]);
        assert_close(&found, &oracle::softmax(&plain, 1.0), &context);
    }
}

#[test]
fn steps_that_remove_tokens_match_the_oracle() {
    for count in [1, 2, 7, 59, 60, 1000] {
        compare(&Sampling { top_k: count, ..off() }, |l| oracle::top_k(l, count));
    }
    for mass in [0.0, 0.1, 0.5, 0.95, 0.999] {
        compare(&Sampling { top_p: mass, ..off() }, |l| oracle::top_p(l, mass.into()));
        compare(&Sampling { typical_p: mass, ..off() }, |l| oracle::typical_p(l, mass.into()));
    }
    for fraction in [0.01, 0.05, 0.3, 1.0] {
        compare(&Sampling { min_p: fraction, ..off() }, |l| oracle::min_p(l, fraction.into()));
    }
    for count in [0.01, 0.5, 1.0, 2.5, 100.0] {
        compare(&Sampling { top_n_sigma: count, ..off() }, |l| oracle::top_n_sigma(l, count.into()));
    }
    for threshold in [0.0, 0.05, 0.1, 0.25, 0.5] {
        let mut sampling = off();
        (sampling.xtc.probability, sampling.xtc.threshold) = (1.0, threshold);
        compare(&sampling, |l| oracle::exclude_top_choices(l, threshold.into()));
    }
}

#[test]
fn a_bias_matches_the_oracle() {
    // The third and the fifth are for one token: their sum counts.
    let biases = vec![(0, 2.5), (2, -4.0), (7, 1.0), (9, f32::NEG_INFINITY), (7, 1.5), (9, 3.0)];
    for seed in 0..30 {
        let logits = logits(seed);
        let mut plain = wide(&logits);
        oracle::bias(&mut plain, &biases);
        let found =
            distribution(&mut sampler(Sampling { logit_bias: biases.clone(), ..off() }, &[]), &logits, &[]);
        assert_close(&found, &oracle::softmax(&plain, 1.0), "bias");
    }
    let mut all = sampler(Sampling { logit_bias: vec![(0, f32::NEG_INFINITY)], ..off() }, &[]);
    assert_eq!(all.pick(&[1.0], &[]), Err(SamplerError::NoneAllowed));
    let mut outside = sampler(Sampling { logit_bias: vec![(3, 1.0)], ..off() }, &[]);
    assert_eq!(outside.pick(&[1.0; 3], &[]), Err(SamplerError::BiasedToken { token: 3, vocabulary: 3 }));
}

#[test]
fn penalties_match_the_oracle() {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    for seed in 0..60 {
        let logits = logits(seed);
        // The vocabulary has 60 tokens. An id above that has no logit, and is ignored.
        let recent: Vec<u32> = (0..seed).map(|_| random.next_u32() % 64).collect();
        for (repeat, frequency, presence) in
            [(1.3, 0.0, 0.0), (0.8, 0.0, 0.0), (1.0, 0.4, 0.0), (1.0, 0.0, 0.9), (1.1, -0.3, 0.2)]
        {
            for last_n in [1, 10, 64, usize::MAX] {
                let sampling = Sampling {
                    repeat_penalty: repeat,
                    frequency_penalty: frequency,
                    presence_penalty: presence,
                    repeat_last_n: last_n,
                    ..off()
                };
                let mut plain = wide(&logits);
                oracle::penalize(
                    &mut plain,
                    &recent,
                    last_n,
                    repeat.into(),
                    frequency.into(),
                    presence.into(),
                );
                let found = distribution(&mut sampler(sampling.clone(), &[]), &logits, &recent);
                assert_close(&found, &oracle::softmax(&plain, 1.0), &format!("{sampling:?}"));
            }
        }
    }
}

/// Texts with many repetitions: few tokens, and copies of earlier parts.
fn repetitive(random: &mut ChaCha8Rng, length: usize, tokens: u32) -> Vec<u32> {
    let mut text: Vec<u32> = Vec::new();
    while text.len() < length {
        let copied = (random.next_u32() % 9) as usize;
        if copied < text.len() && random.next_u32().is_multiple_of(3) {
            let begin = random.next_u32() as usize % (text.len() - copied);
            text.extend_from_within(begin..begin + copied);
        }
        text.push(random.next_u32() % tokens);
    }
    text
}

#[test]
fn dry_matches_the_oracle() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let breakers: [&[&str]; 5] = [&[], &["\n", ":"], &["<stop>"], &["b c", "y"], &["a"]];
    for round in 0..400 {
        let dry = Dry {
            multiplier: 0.01 + (round % 3) as f32,
            base: [1.0, 1.1, 1.75][round % 3],
            allowed_length: random.next_u32() as usize % 5,
            penalty_last_n: [1, 2, 10, 64, usize::MAX][round % 5],
            sequence_breakers: breakers[(round / 5) % 5].iter().map(|text| (*text).to_owned()).collect(),
        };
        let length = random.next_u32() as usize % 40;
        let recent = repetitive(&mut random, length, 2 + (round % 7) as u32);
        let logits = &distinct(round as u64)[..TEXTS.len()];
        let mut plain = wide(logits);
        oracle::dry(&mut plain, &recent, &dry, &TEXTS);
        let sampling = Sampling { dry: dry.clone(), ..off() };
        let mut candidates = Candidates::new(logits, None).unwrap();
        sampler(sampling, &TEXTS).run_chain(&mut candidates, &recent).unwrap();
        for (id, found) in candidates.ids().iter().zip(candidates.logits()) {
            let expected = plain[*id as usize];
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{recent:?} {dry:?}: {id}");
        }
    }
}

#[test]
fn dry_penalizes_the_token_that_continues_a_repetition() {
    let logit_of = |recent: &[u32], token: u32, breakers: &[&str]| {
        let mut sampling = off();
        sampling.dry.multiplier = 0.5;
        sampling.dry.base = 2.0;
        sampling.dry.sequence_breakers = breakers.iter().map(|text| (*text).to_owned()).collect();
        let logits = [0.0; TEXTS.len()];
        let mut candidates = Candidates::new(&logits, None).unwrap();
        sampler(sampling, &TEXTS).run_chain(&mut candidates, recent).unwrap();
        let found = candidates.ids().iter().zip(candidates.logits()).find(|(id, _)| **id == token);
        found.unwrap().1
    };
    // a b c x, then a b c: the fourth token would be the same again. 0.5 * 2^(3 - 2) = 1.
    assert_eq!(logit_of(&[0, 1, 2, 5, 0, 1, 2], 5, &[]), -1.0);
    assert_eq!(logit_of(&[0, 1, 2, 5, 0, 1, 2], 0, &[]), 0.0);
    // A token with a breaker is never penalized, and a repetition ends at a breaker.
    assert_eq!(logit_of(&[0, 1, 2, 5, 0, 1, 2], 5, &["<"]), 0.0);
    assert_eq!(logit_of(&[3, 0, 1, 5, 3, 0, 1], 5, &[]), -1.0);
    assert_eq!(logit_of(&[3, 0, 1, 5, 3, 0, 1], 5, &["\n"]), -0.5);
    assert_eq!(logit_of(&[0, 3, 1, 5, 0, 3, 1], 5, &["\n"]), 0.0);
    // The breaker spans three tokens.
    assert_eq!(logit_of(&[5, 6, 7, 0, 1, 2, 5, 6, 7, 0, 1], 2, &[]), -4.0);
    assert_eq!(logit_of(&[5, 6, 7, 0, 1, 2, 5, 6, 7, 0, 1], 2, &["<stop>"]), -0.5);
}

/// The penalty of a long repetition is larger than any `f32`. The token stays possible.
#[test]
fn a_penalty_does_not_overflow() {
    let mut sampling = off();
    sampling.dry.multiplier = 1e6;
    sampling.dry.base = 1e6;
    sampling.dry.sequence_breakers.clear();
    let mut sampler = sampler(sampling, &["a", "b"]);
    assert_eq!(sampler.pick(&[1.0, 2.0], &[0; 64]), Ok(1));
    assert_eq!(sampler.pick(&[f32::MIN, f32::NEG_INFINITY], &[0; 64]), Ok(0));
}

/// Both would take hours if their time were quadratic in the length of the window.
#[test]
fn a_long_window_takes_linear_time() {
    let mut sampling = Sampling { repeat_penalty: 1.1, repeat_last_n: usize::MAX, ..off() };
    sampling.dry.multiplier = 0.8;
    sampling.dry.penalty_last_n = usize::MAX;
    sampling.dry.sequence_breakers = vec!["<stop>".to_owned()];
    let mut sampler = sampler(sampling, &TEXTS);
    for recent in [vec![0; 1 << 20], [0, 1, 2].repeat(1 << 19)] {
        assert!(sampler.pick(&[0.0; TEXTS.len()], &recent).is_ok());
    }
}

#[test]
fn a_temperature_matches_the_oracle() {
    for seed in 0..40 {
        for logits in [logits(seed), distinct(seed), vec![0.5], vec![0.25; 7]] {
            let plain = wide(&logits);
            for temperature in [0.1, 0.8, 1.0, 3.0] {
                let found = distribution(&mut sampler(Sampling { temperature, ..off() }, &[]), &logits, &[]);
                assert_close(&found, &oracle::softmax(&plain, temperature.into()), "temperature");
                for (range, exponent) in [(0.05, 1.0), (0.5, 2.0), (2.0, 0.5), (1.0, 0.0)] {
                    let mut sampling = Sampling { temperature, ..off() };
                    (sampling.dynamic_temperature.range, sampling.dynamic_temperature.exponent) =
                        (range, exponent);
                    let divisor = oracle::dynamic(&plain, temperature.into(), range.into(), exponent.into());
                    let found = distribution(&mut sampler(sampling, &[]), &logits, &[]);
                    assert_close(&found, &oracle::softmax(&plain, divisor), "dynamic");
                }
            }
        }
    }
    // At temperature 0, the token with the lowest id of the largest logits is left.
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    assert_eq!(distribution(&mut sampler(greedy, &[]), &[1.0, 3.0, 3.0], &[]), [0.0, 1.0, 0.0]);
    let mut dynamic = Sampling { temperature: 0.0, ..off() };
    dynamic.dynamic_temperature.range = 1.0;
    let found = distribution(&mut sampler(dynamic, &[]), &[0.0, 0.0], &[]);
    assert_close(&found, &[0.5, 0.5], "temperature 0 with a range of 1 and full entropy");
}

/// All steps together. The oracle applies them in the order of llama.cpp.
#[test]
fn the_whole_chain_matches_the_oracle() {
    let texts: Vec<String> = (0..VOCABULARY).map(|id| format!("t{id}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut sampling = Sampling {
        temperature: 0.7,
        top_k: 30,
        top_p: 0.8,
        min_p: 0.3,
        typical_p: 0.7,
        top_n_sigma: 2.0,
        repeat_penalty: 1.2,
        frequency_penalty: 0.1,
        presence_penalty: 0.3,
        logit_bias: vec![(3, 2.0), (5, f32::NEG_INFINITY)],
        ..off()
    };
    sampling.dynamic_temperature.range = 0.4;
    (sampling.xtc.probability, sampling.xtc.threshold) = (1.0, 0.15);
    (sampling.dry.multiplier, sampling.dry.sequence_breakers) = (0.8, vec!["t3".to_owned()]);
    let mut differs = [false; 4];
    for seed in 0..150 {
        let logits = distinct(seed);
        let recent = repetitive(&mut random, 70, 12);
        let prepare = |l: &mut [f64]| {
            oracle::bias(l, &sampling.logit_bias);
            let factor = |x: f32| f64::from(x);
            oracle::penalize(l, &recent, 64, factor(1.2), factor(0.1), factor(0.3));
            oracle::dry(l, &recent, &sampling.dry, &texts);
        };
        let steps: [OracleStep; 6] = [
            &|l| oracle::top_n_sigma(l, 2.0),
            &|l| oracle::top_k(l, 30),
            &|l| oracle::typical_p(l, 0.7f32.into()),
            &|l| oracle::top_p(l, 0.8f32.into()),
            &|l| oracle::min_p(l, 0.3f32.into()),
            &|l| oracle::exclude_top_choices(l, 0.15f32.into()),
        ];
        let in_order = |order: [usize; 6]| {
            let mut plain = wide(&logits);
            prepare(&mut plain);
            order.iter().for_each(|&i| steps[i](&mut plain));
            let divisor = oracle::dynamic(&plain, 0.7f32.into(), 0.4f32.into(), 1.0);
            oracle::softmax(&plain, divisor)
        };
        let expected = in_order([0, 1, 2, 3, 4, 5]);
        let found = distribution(&mut sampler(sampling.clone(), &texts), &logits, &recent);
        assert_close(&found, &expected, &format!("seed {seed}"));
        // Another order gives another distribution, so the comparison tests the order.
        let others = [[1, 0, 2, 3, 4, 5], [0, 1, 3, 2, 4, 5], [0, 1, 2, 3, 5, 4], [0, 5, 1, 2, 3, 4]];
        for (differs, order) in differs.iter_mut().zip(others) {
            *differs |= in_order(order) != expected;
        }
    }
    assert_eq!(differs, [true; 4]);
}
