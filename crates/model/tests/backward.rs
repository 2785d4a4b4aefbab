//! Compares gradients with finite differences of the forward pass, for the first block of every golden model.

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_io::Limits;
use kvant_kernels::{Backend, Isa};
use kvant_model::{Block, Positions, Weights};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Number of tokens. It is large enough that attention uses its code for many queries.
const TOKENS: usize = 40;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Returns the residual stream after the block, and the input of each stage. A stage is the set of linear layers (maps)
/// of a block that read the same input.
fn forward(block: &Block, residual: &[f32], positions: &Positions) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut residual = residual.to_vec();
    let mut inputs = vec![block.enter(&residual)];
    for stage in 0..block.stages() {
        let next = block.advance_alone(stage, &inputs[stage], &mut residual, positions);
        inputs.push(next);
    }
    (residual, inputs)
}

/// The experts that the tokens use in the block. A change of the experts is a jump of the result.
fn used_experts(block: &Block, residual: &[f32], positions: &Positions) -> Vec<usize> {
    let (mut residual, mut used) = (residual.to_vec(), Vec::new());
    let mut input = block.enter(&residual);
    for stage in 0..block.stages() {
        if let Some(mut routing) = block.routing(stage, &input, &residual) {
            routing.experts.chunks_mut(routing.used).for_each(<[usize]>::sort_unstable);
            used.extend(routing.experts);
        }
        input = block.advance_alone(stage, &input, &mut residual, positions);
    }
    used
}

fn moved(x: &[f32], by: f32, along: &[f32]) -> Vec<f32> {
    x.iter().zip(along).map(|(x, d)| x + by * d).collect()
}

#[test]
fn gradients_are_slopes() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut looked_at = 0;
    let every = if std::env::var_os("KVANT_EMULATED").is_some() { 4 } else { 1 };
    let sets = ["encoders", "models"].map(|set| std::fs::read_dir(root.join(set)).unwrap());
    let folders = sets.into_iter().flatten().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    for folder in folders.step_by(every) {
        let weights = Weights::new(kvant_io::open(&folder, &Limits::default()).unwrap()).unwrap();
        let spec = weights.spec();
        // Every instruction set on the first block, the best one on the others.
        let others = (1..spec.blocks.len()).map(|index| (index, Isa::best()));
        for (index, isa) in Isa::available().into_iter().map(|isa| (0, isa)).chain(others) {
            let backend = Backend::new(isa, 2);
            let mut block = Block::load(&weights, &backend, index).unwrap();
            let positions = Positions::new(spec, 0, TOKENS);
            let count = TOKENS * spec.stream_width();
            let (residual, along, after) = (numbers(count, 1), numbers(count, 2), numbers(count, 3));
            let mut heard = BTreeMap::new();
            let before = block.backward(&residual, &after, &positions, &mut |name, gradient| {
                assert!(heard.insert(name.to_owned(), gradient.to_vec()).is_none(), "{name} is heard once");
            });
            // The largest step that changes no token's experts.
            let steps = |largest: f32| [1.0, 0.3, 0.1, 0.03, 0.01].map(|part| part * largest);
            let unchanged = used_experts(&block, &residual, &positions);
            let slope = |step: f32, at: &dyn Fn(f32) -> Vec<f32>| {
                (dot(&at(step), &after) - dot(&at(-step), &after)) / (2.0 * f64::from(step))
            };
            let close = |what: &str, found: f64, expected: f64, scale: f64| {
                let place = format!("{} block {index}", folder.display());
                assert!(
                    (found - expected).abs() < 0.01 * scale,
                    "{place} {isa:?} {what}: {found}, {expected}"
                );
            };
            let keeps_experts = |step: &f32| {
                let experts = |step| used_experts(&block, &moved(&residual, step, &along), &positions);
                experts(*step) == unchanged && experts(-step) == unchanged
            };
            let step = steps(1e-3).into_iter().find(keeps_experts).expect("a small step");
            let expected =
                slope(step, &|step| forward(&block, &moved(&residual, step, &along), &positions).0);
            close("residual", dot(&before, &along), expected, dot(&before, &before).sqrt().max(1.0));
            let inputs = forward(&block, &residual, &positions).1;
            for (stage, slots) in spec.blocks[index].stages().into_iter().map(|s| s.slots).enumerate() {
                // The gradients at the outputs of experts have no use; the gradient at the residual stream tests them.
                for slot in slots.into_iter().filter(|slot| slot.experts.is_none()) {
                    let name = slot.weight();
                    let (rows, columns) = (slot.rows, slot.columns);
                    let weight = weights.tensor(&name).unwrap().decode();
                    let along = numbers(rows * columns, 4);
                    // The change of Σ `after` · output if the weight moves along the direction `along`, computed from
                    // the gradients.
                    let (x, gradient) = (&inputs[stage], &heard[&name]);
                    let change: f64 = (0..TOKENS * rows)
                        .map(|i| {
                            let (token, row) = (i / rows, i % rows);
                            let x = &x[token * columns..][..columns];
                            f64::from(gradient[i]) * dot(x, &along[row * columns..][..columns])
                        })
                        .sum();
                    let mut after_step = |step: f32| {
                        let values = moved(&weight, step, &along);
                        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
                        let shape = Shape::new(&[rows, columns]).unwrap();
                        let tensor = Tensor::new(shape, &format::F32, Bytes::from(bytes)).unwrap();
                        block.replace(&name, &tensor, &weights).unwrap();
                        let experts = used_experts(&block, &residual, &positions);
                        (dot(&forward(&block, &residual, &positions).0, &after), experts)
                    };
                    let slopes = steps(2e-3).into_iter().find_map(|step| {
                        let [(above, first), (below, second)] = [after_step(step), after_step(-step)];
                        let slope = (above - below) / (2.0 * f64::from(step));
                        (first == unchanged && second == unchanged).then_some(slope)
                    });
                    let expected = slopes.expect("a small step");
                    after_step(0.0);
                    let scale = dot(gradient, gradient).sqrt() * dot(x, x).sqrt() / (TOKENS as f64).sqrt();
                    close(&name, change, expected, scale.max(1.0));
                    looked_at += 1;
                }
            }
            let slots = spec.blocks[index].slots().filter(|slot| slot.experts.is_none());
            assert_eq!(heard.len(), slots.count());
        }
    }
    assert!(looked_at >= 7 * 32 / every, "golden models are missing");
}
