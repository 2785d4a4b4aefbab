//! Tests the random choice: seeds, the statistics of many draws, and Mirostat's choices.

use super::*;

/// Draws `count` tokens. The chi-square statistic of a right sampler has about the mean k - 1 and the variance
/// 2 (k - 1), where k is the number of possible tokens. The seed is fixed, so the test has one result.
fn check_draws(sampler: &mut Sampler, logits: &[f32], expected: &[f64]) {
    let count = 40_000;
    let mut drawn = vec![0.0; logits.len()];
    for _ in 0..count {
        drawn[sampler.pick(logits, &[]).unwrap() as usize] += 1.0;
    }
    let mut statistic = 0.0;
    for (drawn, p) in drawn.iter().zip(expected) {
        if *p > 0.0 {
            let mean = p * f64::from(count);
            assert!(mean > 5.0, "too few draws for this token");
            statistic += (drawn - mean) * (drawn - mean) / mean;
        } else {
            assert_eq!(*drawn, 0.0);
        }
    }
    let freedom = expected.iter().filter(|p| **p > 0.0).count() as f64 - 1.0;
    assert!(statistic < freedom + 4.0 * (2.0 * freedom).sqrt() + 4.0, "{statistic} with {freedom}");
}

const SHORT: [f32; 8] = [1.0, 0.0, 2.0, f32::NEG_INFINITY, 0.5, 2.0, -1.0, 1.5];

#[test]
fn draws_follow_the_temperature() {
    for temperature in [0.5, 1.0, 3.0] {
        let mut sampler = sampler(Sampling { temperature, ..off() }, &[]);
        check_draws(&mut sampler, &SHORT, &oracle::softmax(&wide(&SHORT), temperature.into()));
    }
}

#[test]
fn xtc_applies_with_its_probability() {
    let plain = wide(&SHORT);
    let mut excluded = plain.clone();
    oracle::exclude_top_choices(&mut excluded, 0.1);
    let (with, without) = (oracle::softmax(&excluded, 1.0), oracle::softmax(&plain, 1.0));
    assert!(with.iter().filter(|p| **p > 0.0).count() == 4, "four top choices, three of them removed");
    for probability in [0.0, 0.3, 0.5, 1.0] {
        let mut sampling = off();
        (sampling.xtc.probability, sampling.xtc.threshold) = (probability, 0.1);
        let p = f64::from(probability);
        let mixed: Vec<f64> = with.iter().zip(&without).map(|(a, b)| p * a + (1.0 - p) * b).collect();
        check_draws(&mut sampler(sampling, &[]), &SHORT, &mixed);
    }
}

#[test]
fn a_seed_repeats_its_choices() {
    let mut all = Sampling { typical_p: 0.9, repeat_penalty: 1.1, ..Sampling::default() };
    (all.xtc.probability, all.xtc.threshold) = (0.5, 0.1);
    let mut mirostat = all.clone();
    mirostat.mirostat.version = 2;
    for sampling in [Sampling::default(), all, mirostat] {
        let choices = |seed: u64| -> Vec<u32> {
            let mut sampler = sampler(Sampling { seed, ..sampling.clone() }, &[]);
            let mut tokens = Vec::new();
            for i in 0..100 {
                tokens.push(sampler.pick(&distinct(i), &tokens).unwrap());
            }
            tokens
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }
}

/// The reference follows the paper: it sorts, truncates by the surprise, draws, and corrects the limit.
#[test]
fn mirostat_matches_a_plain_reference() {
    for (target, rate, temperature) in
        [(2.0f32, 0.1f32, 1.0f32), (4.5, 0.3, 0.8), (0.0, 1.0, 1.0), (1.0, 0.0, 2.0)]
    {
        let mut sampling = Sampling { temperature, seed: 77, ..Sampling::default() };
        sampling.mirostat.version = 2;
        (sampling.mirostat.target_entropy, sampling.mirostat.learning_rate) = (target, rate);
        let mut sampler = sampler(sampling, &[]);
        let mut random = ChaCha8Rng::seed_from_u64(77);
        let mut limit = 2.0 * f64::from(target);
        let mut surprises = Vec::new();
        for step in 0..600 {
            let logits = if step % 2 == 0 { distinct(step) } else { logits(step) };
            let p = oracle::softmax(&wide(&logits), temperature.into());
            let mut order: Vec<usize> = (0..p.len()).filter(|&i| p[i] > 0.0).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let kept = order.iter().filter(|&&i| -p[i].log2() <= limit).count().max(1);
            order.truncate(kept);
            let total: f64 = order.iter().map(|&i| p[i]).sum();
            let target_sum = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
            let mut sum = 0.0;
            let chosen = order.iter().copied().find(|&i| {
                sum += p[i];
                sum > target_sum
            });
            let chosen = chosen.unwrap();
            assert_eq!(sampler.pick(&logits, &[1, 1, 1]), Ok(chosen as u32), "step {step}, target {target}");
            let surprise = -(p[chosen] / total).log2();
            limit -= f64::from(rate) * (surprise - f64::from(target));
            surprises.push(surprise);
        }
        if rate > 0.0 && (1.0..4.0).contains(&target) {
            let mean = surprises[100..].iter().sum::<f64>() / 500.0;
            assert!((mean - f64::from(target)).abs() < 0.1, "mean surprise {mean}, target {target}");
        }
    }
}

#[test]
fn mirostat_at_temperature_0_takes_the_best_token() {
    let mut sampling = Sampling { temperature: 0.0, logit_bias: vec![(2, -10.0), (5, -10.0)], ..off() };
    sampling.mirostat.version = 2;
    let mut sampler = sampler(sampling, &[]);
    for _ in 0..10 {
        assert_eq!(sampler.pick(&SHORT, &[7, 7]), Ok(7));
    }
}
