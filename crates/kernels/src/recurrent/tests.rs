use super::*;
use crate::{Isa, PagePool};

const SHAPE: DeltaShape =
    DeltaShape { key_heads: 2, value_heads: 4, key_size: 6, value_size: 40, order: HeadOrder::Grouped };
const TOKENS: usize = 9;

/// Arbitrary numbers from −1 to 1.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Inputs {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    log_decay: Vec<f32>,
    strength: Vec<f32>,
}

impl Inputs {
    fn new(shape: &DeltaShape) -> Self {
        Self {
            query: numbers(TOKENS * shape.keys(), 1),
            key: numbers(TOKENS * shape.keys(), 2).iter().map(|x| x / 2.0).collect(),
            value: numbers(TOKENS * shape.values(), 3),
            log_decay: numbers(TOKENS * shape.value_heads, 4).iter().map(|x| x - 1.0).collect(),
            strength: numbers(TOKENS * shape.value_heads, 5).iter().map(|x| x / 2.0 + 0.5).collect(),
        }
    }

    /// The inputs of some tokens.
    fn part(&self, shape: &DeltaShape, tokens: std::ops::Range<usize>) -> DeltaInput<'_> {
        let rows = |width: usize| tokens.start * width..tokens.end * width;
        DeltaInput {
            query: &self.query[rows(shape.keys())],
            key: &self.key[rows(shape.keys())],
            value: &self.value[rows(shape.values())],
            log_decay: &self.log_decay[rows(shape.value_heads)],
            strength: &self.strength[rows(shape.value_heads)],
        }
    }

    fn all(&mut self) -> [&mut Vec<f32>; 5] {
        [&mut self.query, &mut self.key, &mut self.value, &mut self.log_decay, &mut self.strength]
    }
}

/// The formula, entry by entry, in f64.
fn plain(shape: &DeltaShape, input: &DeltaInput) -> Vec<f64> {
    let (rows, columns) = (shape.key_size, shape.value_size);
    let mut out = vec![0.0; input.value.len()];
    for head in 0..shape.value_heads {
        let mut state = vec![vec![0.0f64; columns]; rows];
        for token in 0..input.log_decay.len() / shape.value_heads {
            let at = (token * shape.key_heads + shape.key_head(head)) * rows;
            let (key, query) = (&input.key[at..][..rows], &input.query[at..][..rows]);
            let scalar = token * shape.value_heads + head;
            let start = scalar * columns;
            for j in 0..columns {
                let column = |state: &[Vec<f64>], x: &[f32]| {
                    (0..rows).map(|i| state[i][j] * f64::from(x[i])).sum::<f64>()
                };
                (0..rows).for_each(|i| state[i][j] *= f64::from(input.log_decay[scalar]).exp());
                let error = f64::from(input.value[start + j]) - column(&state, key);
                for i in 0..rows {
                    state[i][j] += f64::from(key[i]) * f64::from(input.strength[scalar]) * error;
                }
                out[start + j] = column(&state, query);
            }
        }
    }
    out
}

fn run(isa: Isa, shape: &DeltaShape, inputs: &Inputs, cuts: &[usize]) -> Vec<f32> {
    let backend = Backend::new(isa, 2);
    let mut state = vec![0.0; shape.state_length()];
    let mut out = Vec::new();
    let ends = cuts.iter().copied().chain([TOKENS]);
    let mut start = 0;
    for end in ends {
        let input = inputs.part(shape, start..end);
        let mut results = vec![0.0; input.value.len()];
        delta_rule(&backend, shape, &input, &mut [(&mut state, end - start)], &mut results);
        out.extend(results);
        start = end;
    }
    out
}

#[test]
fn every_instruction_set_computes_the_formula_in_pieces_of_any_length() {
    for order in [HeadOrder::Grouped, HeadOrder::Tiled] {
        for value_size in [40, 32, 5] {
            let shape = DeltaShape { order, value_size, ..SHAPE };
            let inputs = Inputs::new(&shape);
            let expected = plain(&shape, &inputs.part(&shape, 0..TOKENS));
            for isa in Isa::available() {
                let found = run(isa, &shape, &inputs, &[]);
                let worst =
                    expected.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
                assert!(worst < 2e-6, "{isa:?} {shape:?}: {worst}");
                for cuts in [&[1, 2, 3][..], &[4], &[8]] {
                    assert_eq!(run(isa, &shape, &inputs, cuts), found, "{isa:?} {cuts:?}");
                }
            }
        }
    }
}

#[test]
fn sequences_of_one_call_do_not_influence_each_other() {
    let inputs = Inputs::new(&SHAPE);
    let backend = Backend::new(Isa::best(), 2);
    let (mut first, mut second) = (vec![0.0; SHAPE.state_length()], vec![0.0; SHAPE.state_length()]);
    let all = inputs.part(&SHAPE, 0..TOKENS);
    let mut out = vec![0.0; all.value.len()];
    delta_rule(&backend, &SHAPE, &all, &mut [(&mut first, 4), (&mut second, TOKENS - 4)], &mut out);
    let mut alone = vec![0.0; SHAPE.state_length()];
    let part = inputs.part(&SHAPE, 4..TOKENS);
    let mut expected = vec![0.0; part.value.len()];
    delta_rule(&backend, &SHAPE, &part, &mut [(&mut alone, TOKENS - 4)], &mut expected);
    assert_eq!(out[4 * SHAPE.values()..], expected);
    assert_eq!(second, alone);
}

#[test]
fn gradients_of_the_delta_rule_equal_finite_differences() {
    for order in [HeadOrder::Grouped, HeadOrder::Tiled] {
        let shape = DeltaShape { order, ..SHAPE };
        let mut inputs = Inputs::new(&shape);
        let weights = numbers(TOKENS * shape.values(), 6);
        let backend = Backend::new(Isa::best(), 2);
        let found = delta_rule_gradient(&backend, &shape, &inputs.part(&shape, 0..TOKENS), &weights);
        let found = [found.query, found.key, found.value, found.log_decay, found.strength];
        let loss = |inputs: &Inputs| -> f64 {
            let results = plain(&shape, &inputs.part(&shape, 0..TOKENS));
            results.iter().zip(&weights).map(|(x, weight)| x * f64::from(*weight)).sum()
        };
        for (which, found) in found.iter().enumerate() {
            for index in (0..found.len()).step_by(7) {
                let before = inputs.all()[which][index];
                let mut at = |step: f32| {
                    inputs.all()[which][index] = before + step;
                    loss(&inputs)
                };
                let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
                inputs.all()[which][index] = before;
                let difference = (expected - f64::from(found[index])).abs();
                assert!(difference < 1e-3 * expected.abs().max(1.0), "{which} {index}: {expected} {found:?}");
            }
        }
    }
}

/// The convolution, number by number.
fn plain_convolution(convolution: &Convolution, x: &[f32]) -> Vec<f64> {
    let (channels, past) = (convolution.channels, convolution.past());
    let at = |token: usize, channel: usize| {
        let terms = (0..=past).filter(|row| token + row >= past).map(|row| {
            let x = x[(token + row - past) * channels + channel];
            f64::from(convolution.weight[row * channels + channel]) * f64::from(x)
        });
        let sum: f64 = terms.sum();
        if convolution.silu { sum / (1.0 + (-sum).exp()) } else { sum }
    };
    (0..x.len()).map(|i| at(i / channels, i % channels)).collect()
}

#[test]
fn every_instruction_set_computes_the_convolution_in_pieces_of_any_length() {
    for (channels, silu) in [(5, true), (300, true), (300, false)] {
        let weight = numbers(4 * channels, 7);
        let convolution = Convolution { weight: &weight, channels, silu };
        let x = numbers(TOKENS * channels, 8);
        let expected = plain_convolution(&convolution, &x);
        for isa in Isa::available() {
            for cuts in [&[][..], &[1, 2, 3], &[6]] {
                let backend = Backend::new(isa, 2);
                let mut state = vec![0.0; 3 * channels];
                let (mut found, mut start) = (Vec::new(), 0);
                for end in cuts.iter().copied().chain([TOKENS]) {
                    let part = &x[start * channels..end * channels];
                    let mut out = vec![0.0; part.len()];
                    short_convolution(
                        &backend,
                        &convolution,
                        part,
                        &mut [(&mut state, end - start)],
                        &mut out,
                    );
                    found.extend(out);
                    start = end;
                }
                let same = expected.iter().zip(&found).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-6);
                assert!(same, "{isa:?} {channels} {cuts:?}");
            }
        }
    }
}

#[test]
fn gradients_of_convolutions_and_of_the_norm_equal_finite_differences() {
    let (channels, backend) = (5, Backend::new(Isa::best(), 2));
    let weight = numbers(4 * channels, 7);
    let convolutions = [true, false].map(|silu| Convolution { weight: &weight, channels, silu });
    let mut x = numbers(TOKENS * channels, 8);
    let gradient = numbers(x.len(), 9);
    let [with_silu, without] =
        convolutions.each_ref().map(|c| short_convolution_gradient(&backend, c, &x, &gradient));
    let mut of_norm = gradient.clone();
    unit_rows_gradient(&x, channels, 0.5, &mut of_norm);
    let normed = |x: &[f32]| -> Vec<f64> {
        let rows = x.chunks_exact(channels).flat_map(|row| {
            let sum: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            row.iter().map(move |x| 0.5 * f64::from(*x) / (sum + 1e-6).sqrt())
        });
        rows.collect()
    };
    let loss = |results: Vec<f64>| -> f64 {
        results.iter().zip(&gradient).map(|(x, gradient)| x * f64::from(*gradient)).sum()
    };
    for index in 0..x.len() {
        let before = x[index];
        let mut at = |step: f32| {
            x[index] = before + step;
            let [first, second] = convolutions.each_ref().map(|c| loss(plain_convolution(c, &x)));
            [first, second, loss(normed(&x))]
        };
        let (above, below) = (at(1e-3), at(-1e-3));
        x[index] = before;
        for (which, found) in [&with_silu, &without, &of_norm].into_iter().enumerate() {
            let expected = (above[which] - below[which]) / 2e-3;
            assert!((expected - f64::from(found[index])).abs() < 1e-3, "{which} {index}: {expected}");
        }
    }
}

#[test]
fn a_state_is_copied_when_one_of_its_owners_changes_it() {
    let pool = PagePool::new(1 << 12);
    let mut state = RecurrentState::in_pool(100, &pool);
    assert_eq!((state.bytes(0), state.missing(0), state.missing(3)), (0, 0, 448));
    state.advance(3).fill(1.0);
    assert_eq!((state.len(), state.missing(1), pool.held()), (3, 0, 448));
    let mut fork = state.clone();
    assert_eq!((fork.missing(1), pool.held()), (448, 448));
    fork.advance(1).fill(2.0);
    assert_eq!((state.len(), fork.len(), pool.held()), (3, 4, 896));
    assert!(state.advance(1).iter().all(|x| *x == 1.0));
    fork.clear();
    assert_eq!((fork.len(), pool.held()), (0, 448));
    // The pool's free page has other content; a new state is zero.
    assert!(fork.advance(1).iter().all(|x| *x == 0.0));
}
