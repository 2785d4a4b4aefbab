//! Golden choices of the sampler. They were recorded before the sampler became a chain of steps. A change of the
//! sampler must keep them, because the same seed has to give the same answer in the next version.

use kvant_model::{Sampler, Sampling, TokenMask};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const VOCABULARY: usize = 300;

/// Logits in steps of 1/16, so that some of them are equal. One in eleven is minus infinity.
fn logits(random: &mut ChaCha8Rng) -> Vec<f32> {
    let one = |_| match random.next_u32() {
        draw if draw.is_multiple_of(11) => f32::NEG_INFINITY,
        draw => (draw % 193) as f32 / 16.0 - 7.0,
    };
    (0..VOCABULARY).map(one).collect()
}

/// Chooses 400 tokens, each from new logits. Returns the first six tokens and the FNV-1a hash of all.
fn choices(sampling: &Sampling, masked: bool) -> (Vec<u32>, u64) {
    let mut random = ChaCha8Rng::seed_from_u64(17);
    let mut sampler = Sampler::new(sampling.clone()).unwrap();
    let mut mask = TokenMask::none(VOCABULARY);
    (0..VOCABULARY as u32).filter(|id| id % 3 != 1).for_each(|id| mask.allow(id));
    let mut tokens = vec![5, 5, 90];
    for _ in 0..400 {
        let logits = logits(&mut random);
        let picked = if masked {
            sampler.pick_allowed(&logits, &tokens, &mask)
        } else {
            sampler.pick(&logits, &tokens)
        };
        tokens.push(picked.unwrap());
    }
    let hash = tokens[3..]
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (tokens[3..9].to_vec(), hash)
}

#[test]
fn a_seed_gives_the_recorded_choices() {
    let default = Sampling::default();
    let off = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..default.clone() };
    let cases = [
        (default.clone(), false),
        (default.clone(), true),
        (Sampling { seed: 99, ..default.clone() }, false),
        (Sampling { repeat_penalty: 1.3, ..default.clone() }, false),
        (Sampling { temperature: 0.0, ..default.clone() }, false),
        (Sampling { temperature: 0.0, repeat_penalty: 1.3, ..default.clone() }, true),
        (Sampling { temperature: 2.5, top_k: 7, ..default.clone() }, false),
        (Sampling { top_k: 0, min_p: 0.0, ..default.clone() }, true),
        (Sampling { top_p: 0.4, ..off.clone() }, false),
        (Sampling { min_p: 0.2, top_k: 0, ..default }, false),
        (off.clone(), false),
        (Sampling { temperature: 9.0, ..off }, true),
    ];
    let found: Vec<_> = cases.iter().map(|(sampling, masked)| choices(sampling, *masked)).collect();
    let expected: [([u32; 6], u64); 12] = [
        ([3, 185, 220, 65, 66, 176], 0xb8db_e450_abd8_4d5c),
        ([161, 104, 195, 65, 288, 180], 0xa6e5_7c49_f6c1_a988),
        ([287, 246, 67, 28, 30, 142], 0x2848_73e0_2a77_9633),
        ([3, 185, 220, 65, 193, 176], 0x541f_7bc8_72b4_401a),
        ([52, 93, 106, 65, 34, 83], 0x6928_77e3_4e7c_887d),
        ([191, 93, 110, 65, 128, 83], 0x0e0d_8b6c_086f_2f11),
        ([39, 150, 292, 65, 76, 4], 0x6094_bfb3_4f5a_a04b),
        ([242, 185, 48, 65, 138, 180], 0xdcbf_c8f0_15f3_a812),
        ([40, 71, 250, 65, 50, 78], 0x7163_e441_1b0c_7b64),
        ([161, 185, 220, 65, 135, 176], 0xbbee_f559_b860_d117),
        ([212, 110, 215, 24, 277, 120], 0xfcc9_9ad7_07e9_774b),
        ([209, 137, 215, 23, 261, 155], 0x8b3d_9bc0_ecc9_0729),
    ];
    let expected: Vec<_> = expected.iter().map(|(first, hash)| (first.to_vec(), *hash)).collect();
    assert_eq!(found, expected);
}
