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

fn moved(x: &[f32], by: f32, along: &[f32]) -> Vec<f32> {
    x.iter().zip(along).map(|(x, d)| x + by * d).collect()
}

#[test]
fn gradients_are_slopes() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models");
    let mut looked_at = 0;
    let every = if std::env::var_os("KVANT_EMULATED").is_some() { 4 } else { 1 };
    let folders = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    for folder in folders.step_by(every) {
        let weights = Weights::new(kvant_io::open(&folder, &Limits::default()).unwrap()).unwrap();
        let spec = weights.spec();
        // Every instruction set on the first block, the best one on the others.
        let others = (1..spec.blocks.len()).map(|index| (index, Isa::best()));
        for (index, isa) in Isa::available().into_iter().map(|isa| (0, isa)).chain(others) {
            let backend = Backend::new(isa, 2);
            let mut block = Block::load(&weights, &backend, index).unwrap();
            let positions = Positions::new(spec, 0, TOKENS);
            let count = TOKENS * spec.hidden;
            let (residual, along, after) = (numbers(count, 1), numbers(count, 2), numbers(count, 3));
            let mut heard = BTreeMap::new();
            let before = block.backward(&residual, &after, &positions, &mut |name, gradient| {
                assert!(heard.insert(name.to_owned(), gradient.to_vec()).is_none(), "{name} is heard once");
            });
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
            let expected =
                slope(1e-2, &|step| forward(&block, &moved(&residual, step, &along), &positions).0);
            close("residual", dot(&before, &along), expected, dot(&before, &before).sqrt().max(1.0));
            let inputs = forward(&block, &residual, &positions).1;
            for (stage, slots) in spec.blocks[index].stages().into_iter().map(|s| s.slots).enumerate() {
                for slot in slots {
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
                        dot(&forward(&block, &residual, &positions).0, &after)
                    };
                    let step = 2e-3;
                    let expected = (after_step(step) - after_step(-step)) / (2.0 * f64::from(step));
                    after_step(0.0);
                    let scale = dot(gradient, gradient).sqrt() * dot(x, x).sqrt() / (TOKENS as f64).sqrt();
                    close(&name, change, expected, scale.max(1.0));
                    looked_at += 1;
                }
            }
            assert_eq!(heard.len(), spec.blocks[index].stages().iter().map(|s| s.slots.len()).sum::<usize>());
        }
    }
    assert!(looked_at >= 7 * 32 / every, "golden models are missing");
}
