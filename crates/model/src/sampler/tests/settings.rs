//! Tests the ranges of settings and the order of the chain.

use super::super::chain::{Step, chain};
use super::super::{Dry, SamplerError};
use super::{Sampler, Sampling, off};

#[test]
fn a_setting_outside_its_range_is_named() {
    type Change = fn(&mut Sampling, f32);
    let cases: [(&str, Change, &[f32], &[f32]); 17] = [
        ("temp", |s, x| s.temperature = x, &[-0.1, 2e6], &[0.0, 1e6]),
        ("dynatemp-range", |s, x| s.dynamic_temperature.range = x, &[-1.0], &[0.0, 3.0]),
        ("dynatemp-exp", |s, x| s.dynamic_temperature.exponent = x, &[-1.0], &[0.0, 3.0]),
        ("top-p", |s, x| s.top_p = x, &[-0.1, 1.1], &[0.0, 1.0]),
        ("min-p", |s, x| s.min_p = x, &[-0.1, 1.1], &[0.0, 1.0]),
        ("typical", |s, x| s.typical_p = x, &[-0.1, 1.1], &[0.0, 1.0]),
        ("top-nsigma", |s, x| s.top_n_sigma = x, &[-1.0], &[0.0, 3.0]),
        ("xtc-probability", |s, x| s.xtc.probability = x, &[-0.1, 1.1], &[0.0, 1.0]),
        ("xtc-threshold", |s, x| s.xtc.threshold = x, &[-0.1, 1.1], &[0.0, 1.0]),
        ("repeat-penalty", |s, x| s.repeat_penalty = x, &[0.0, -1.0], &[1e-6, 1e6]),
        ("frequency-penalty", |s, x| s.frequency_penalty = x, &[-2e6, 2e6], &[-2.0, 2.0]),
        ("presence-penalty", |s, x| s.presence_penalty = x, &[-2e6, 2e6], &[-2.0, 2.0]),
        ("dry-multiplier", |s, x| s.dry.multiplier = x, &[-0.1], &[0.0]),
        ("dry-base", |s, x| s.dry.base = x, &[0.9, 2e6], &[1.0, 3.0]),
        ("mirostat-ent", |s, x| s.mirostat.target_entropy = x, &[-0.1], &[0.0, 9.0]),
        ("mirostat-lr", |s, x| s.mirostat.learning_rate = x, &[-0.1], &[0.0, 1.0]),
        (
            "logit-bias",
            |s, x| s.logit_bias = vec![(0, 1.0), (1, x)],
            &[2e6, -2e6],
            &[1e6, -1e6, f32::NEG_INFINITY],
        ),
    ];
    for (expected, change, wrong, right) in cases {
        for value in wrong.iter().chain(&[f32::NAN, f32::INFINITY]) {
            let mut sampling = Sampling::default();
            change(&mut sampling, *value);
            let error = Sampler::new(sampling).err().expect(expected);
            let text = error.to_string();
            assert!(text.starts_with(&format!("{expected} is {value}, expected a number from ")), "{text}");
        }
        for value in right {
            let mut sampling = Sampling::default();
            change(&mut sampling, *value);
            assert!(Sampler::new(sampling).is_ok(), "{expected} {value}");
        }
    }
    let mut sampling = off();
    sampling.mirostat.version = 1;
    let error = Sampler::new(sampling).err().unwrap().to_string();
    assert_eq!(error, "mirostat is 1, expected 0 (off) or 2");
}

#[test]
fn sequence_breakers_are_bounded_and_need_a_tokenizer() {
    let with = |breakers: Vec<String>| {
        let mut sampling = off();
        (sampling.dry.multiplier, sampling.dry.sequence_breakers) = (1.0, breakers);
        Sampler::new(sampling).err()
    };
    assert_eq!(with(vec![]), None);
    assert_eq!(with(vec!["x".to_owned()]), Some(SamplerError::NeedsTokenizer));
    for text in [String::new(), "x".repeat(41), "가".repeat(14)] {
        assert!(matches!(with(vec![text]), Some(SamplerError::Breaker { longest: 40, .. })));
    }
    let error = with(vec!["x".to_owned(); 65]).unwrap().to_string();
    assert_eq!(error, "the number of dry-sequence-breaker texts is 65, expected at most 64");
    assert_eq!(with(vec!["x".to_owned(); Dry::MOST_BREAKERS]), Some(SamplerError::NeedsTokenizer));
}

#[test]
fn the_chain_has_llama_cpps_order_and_only_what_is_on() {
    let plain = |sampling: &Sampling| -> Vec<String> {
        let name = |step: &Step| format!("{step:?}").split(['(', ' ']).next().unwrap().to_owned();
        chain(sampling).iter().map(name).collect()
    };
    assert_eq!(plain(&Sampling::default()), ["TopK", "TopP", "MinP", "Temperature"]);
    assert_eq!(plain(&off()), ["Temperature"]);
    let mut all = Sampling { typical_p: 0.9, top_n_sigma: 2.0, repeat_penalty: 1.1, ..Sampling::default() };
    all.logit_bias = vec![(1, 1.0)];
    all.dry.multiplier = 1.0;
    all.xtc.probability = 0.5;
    let steps = ["LogitBias", "Penalties", "Dry", "TopNSigma", "TopK", "TypicalP", "TopP", "MinP", "Xtc"];
    assert_eq!(plain(&all), [&steps[..], &["Temperature"]].concat());
    // At temperature 0, only steps that may change the best token are left.
    let greedy = Sampling { temperature: 0.0, typical_p: 1.0, ..all.clone() };
    let without_xtc = {
        let mut greedy = greedy.clone();
        greedy.xtc.threshold = 0.6;
        greedy
    };
    assert_eq!(plain(&without_xtc), ["LogitBias", "Penalties", "Dry", "Temperature"]);
    assert!(plain(&greedy).contains(&"TopK".to_owned()));
    all.dynamic_temperature.range = 0.3;
    assert_eq!(plain(&all), [&steps[..], &["DynamicTemperature"]].concat());
    all.mirostat.version = 2;
    assert_eq!(plain(&all), ["LogitBias", "Temperature", "Mirostat"]);
    let no_window = Sampling { repeat_penalty: 2.0, repeat_last_n: 0, ..off() };
    assert_eq!(plain(&no_window), ["Temperature"]);
}
