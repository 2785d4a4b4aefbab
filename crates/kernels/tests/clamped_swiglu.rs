//! Compares the clamped SwiGLU of every instruction set, and its gradient, with the formula in `f64`.

use kvant_kernels::{Backend, ClampedSwiglu, Isa, gradient, ops};
use proptest::prelude::*;

fn exact(gate: f64, up: f64, alpha: f64, limit: f64) -> f64 {
    let gate = gate.min(limit);
    gate / (1.0 + (-alpha * gate).exp()) * (up.clamp(-limit, limit) + 1.0)
}

/// The slope of `f` at `x`, from values on both sides of `x`.
fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let step = 1e-6;
    (f(x + step) - f(x - step)) / (2.0 * step)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_and_its_gradient_equal_the_formula(
        pairs in prop::collection::vec((-12.0f32..12.0, -12.0f32..12.0, -2.0f32..2.0), 1..120),
        alpha in 0.5f32..2.0,
        limit in 0.5f32..10.0,
    ) {
        let settings = ClampedSwiglu { alpha, limit };
        let (alpha, limit) = (f64::from(alpha), f64::from(limit));
        // The slope jumps at the limits.
        let jumps = |x: f32| (f64::from(x.abs()) - limit).abs() < 1e-4;
        let pairs: Vec<_> = pairs.into_iter().filter(|(gate, up, _)| !jumps(*gate) && !jumps(*up)).collect();
        let gates: Vec<f32> = pairs.iter().map(|p| p.0).collect();
        let ups: Vec<f32> = pairs.iter().map(|p| p.1).collect();
        let weights: Vec<f32> = pairs.iter().map(|p| p.2).collect();
        for isa in Isa::available() {
            let backend = Backend::new(isa, 2);
            let mut found = gates.clone();
            ops::clamped_swiglu(&backend, &mut found, &ups, settings);
            let (mut at_gates, mut at_ups) = (gates.clone(), ups.clone());
            gradient::clamped_swiglu(&backend, &mut at_gates, &mut at_ups, &weights, settings);
            for (i, &(gate, up, weight)) in pairs.iter().enumerate() {
                let (gate, up, weight) = (f64::from(gate), f64::from(up), f64::from(weight));
                for (name, found, expected) in [
                    ("result", found[i], exact(gate, up, alpha, limit)),
                    ("gate", at_gates[i], weight * slope(|x| exact(x, up, alpha, limit), gate)),
                    ("up", at_ups[i], weight * slope(|x| exact(gate, x, alpha, limit), up)),
                ] {
                    let difference = (f64::from(found) - expected).abs();
                    prop_assert!(
                        difference < 1e-5 * (1.0 + expected.abs()),
                        "{isa:?} {name} at {gate}, {up}: {found}, {expected}"
                    );
                }
            }
        }
    }
}
