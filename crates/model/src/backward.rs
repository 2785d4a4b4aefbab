//! The backward pass through one block: gradients of the activations.
//!
//! Weights have no gradients here: calibration needs those of the activations alone. One sequence at a time, which
//! nothing precedes; the forward pass through the block is computed again. Source: the chain rule; the judge in the tests
//! is finite differences of the forward pass, which is held against `transformers`' itself.

use crate::block::{LoadedAttention, LoadedBody, LoadedFeedForward};
use crate::linear::{Linear, apply_all};
use crate::{Activation, Block, Positions};
use kvant_kernels::{Backend, Qkv, Ragged, attention, gradient, ops};

/// Receives the gradient at the result of each weight, by the weight's name: tokens × rows.
pub type GradientSink<'a> = &'a mut dyn FnMut(&str, &[f32]);

impl Block {
    /// The gradient at the residual stream before the block, of a number whose gradient after the block is
    /// `after`; `residual` is the stream before the block, tokens × hidden. `sink` receives the gradient at every
    /// map's result.
    pub fn backward(
        &self,
        residual: &[f32],
        after: &[f32],
        positions: &Positions,
        sink: GradientSink,
    ) -> Vec<f32> {
        let backend = &self.backend;
        let Some(last) = self.sublayers.len().checked_sub(1) else { return after.to_vec() };
        // Of each sublayer: the residual stream before it, its input, and what its attention has read.
        let mut passed: Vec<(Vec<f32>, Vec<f32>, Option<AttentionPass>)> = Vec::new();
        let mut stream = residual.to_vec();
        for (index, sublayer) in self.sublayers.iter().enumerate() {
            let input = sublayer.enter(backend, &stream);
            let before = stream.clone();
            let pass = match &sublayer.body {
                LoadedBody::Attention(a) => {
                    let pass = a.forward(backend, &input, positions);
                    if index < last {
                        a.output.add(backend, &pass.attended, &mut stream);
                    }
                    Some(pass)
                }
                LoadedBody::FeedForward(f) => {
                    if index < last {
                        f.down.add(backend, &f.inner(backend, &input), &mut stream);
                    }
                    None
                }
            };
            passed.push((before, input, pass));
        }
        let mut gradient = after.to_vec();
        for (sublayer, (residual, input, pass)) in self.sublayers.iter().zip(passed).rev() {
            let at_input = match (&sublayer.body, pass) {
                (LoadedBody::Attention(a), Some(pass)) => {
                    a.backward(backend, pass, input.len(), &gradient, positions, sink)
                }
                (LoadedBody::Attention(_), None) => unreachable!("an attention has a pass"),
                (LoadedBody::FeedForward(f), _) => f.backward(backend, &input, &gradient, sink),
            };
            match &sublayer.before {
                Some(norm) => norm.add_gradient(backend, &residual, &at_input, &mut gradient),
                None => ops::add(backend, &mut gradient, &at_input),
            }
        }
        gradient
    }
}

/// One attention's forward pass, as its backward pass needs it.
struct AttentionPass {
    /// Queries and keys before their norms, where they have such.
    projected: Option<[Vec<f32>; 2]>,
    read: Qkv,
    attended: Vec<f32>,
}

impl LoadedAttention {
    fn forward(&self, backend: &Backend, input: &[f32], positions: &Positions) -> AttentionPass {
        let mut read = self.projected(backend, input);
        let normed = self.query_norm.is_some() || self.key_norm.is_some();
        let projected = normed.then(|| [read.query.clone(), read.key.clone()]);
        self.place(backend, &mut read, positions);
        let mut attended = vec![0.0; read.query.len()];
        let (mut states, tokens) = (self.no_key_values(), positions.tokens());
        let sequence = Ragged { states: &mut states, tokens };
        attention(backend, &self.shape, &read, &mut [sequence], &mut attended);
        AttentionPass { projected, read, attended }
    }

    /// The gradient at the input, of `input_length` numbers, where `gradient` is that at the residual stream after the
    /// sublayer.
    fn backward(
        &self,
        backend: &Backend,
        AttentionPass { projected, read, mut attended }: AttentionPass,
        input_length: usize,
        gradient: &[f32],
        positions: &Positions,
        sink: GradientSink,
    ) -> Vec<f32> {
        attended.fill(0.0);
        self.output.back(gradient, &mut attended, sink);
        let mut at = gradient::attention(backend, &self.shape, &read, &attended);
        self.rotate(backend, &mut at, &positions.inverse());
        if let Some([query, key]) = &projected {
            for (norm, x, at) in
                [(&self.query_norm, query, &mut at.query), (&self.key_norm, key, &mut at.key)]
            {
                if let Some(norm) = norm {
                    let mut before = vec![0.0; x.len()];
                    norm.add_gradient(backend, x, at, &mut before);
                    *at = before;
                }
            }
        }
        let mut at_input = vec![0.0; input_length];
        if self.query.name == self.value.name {
            let rows = [&self.query, &self.key, &self.value].map(|map| map.weight.rows());
            sink(&self.query.name, &side_by_side([&at.query, &at.key, &at.value], rows));
            for (map, at) in [(&self.query, &at.query), (&self.key, &at.key), (&self.value, &at.value)] {
                map.weight.add_transposed(at, &mut at_input);
            }
        } else {
            self.query.back(&at.query, &mut at_input, sink);
            self.key.back(&at.key, &mut at_input, sink);
            self.value.back(&at.value, &mut at_input, sink);
        }
        at_input
    }
}

/// Rows of three matrices next to each other.
fn side_by_side(parts: [&[f32]; 3], columns: [usize; 3]) -> Vec<f32> {
    let tokens = parts[0].len() / columns[0];
    let mut joined = Vec::with_capacity(tokens * columns.iter().sum::<usize>());
    for token in 0..tokens {
        for (part, columns) in parts.iter().zip(columns) {
            joined.extend_from_slice(&part[token * columns..][..columns]);
        }
    }
    joined
}

impl LoadedFeedForward {
    /// The gradient at `input`, where `gradient` is that at the residual stream after the sublayer.
    fn backward(&self, backend: &Backend, input: &[f32], gradient: &[f32], sink: GradientSink) -> Vec<f32> {
        let (mut gate, mut up) = match &self.gate {
            Some(gate) => {
                let [gate, up] = apply_all(backend, [gate, &self.up], input);
                (Some(gate), up)
            }
            None => (None, self.up.apply(backend, &self.up.input(input))),
        };
        let mut at_inner = vec![0.0; up.len()];
        self.down.back(gradient, &mut at_inner, sink);
        match (self.activation, &mut gate) {
            (Activation::Silu, Some(gate)) => gradient::swiglu(backend, gate, &mut up, &at_inner),
            (Activation::Silu, None) => {
                let mut ones = vec![1.0; up.len()];
                gradient::swiglu(backend, &mut up, &mut ones, &at_inner);
            }
            (Activation::GeluTanh, Some(gate)) => {
                let mut activated = gate.clone();
                ops::gelu_tanh(backend, &mut activated);
                ops::multiply(backend, &mut activated, &at_inner);
                ops::multiply(backend, &mut at_inner, &up);
                gradient::gelu_tanh(backend, gate, &at_inner);
                up = activated;
            }
            (Activation::GeluTanh, None) => gradient::gelu_tanh(backend, &mut up, &at_inner),
        }
        let mut at_input = vec![0.0; input.len()];
        if let (Some(map), Some(gate)) = (&self.gate, &gate) {
            map.back(gate, &mut at_input, sink);
        }
        self.up.back(&up, &mut at_input, sink);
        at_input
    }
}

impl Linear {
    /// Hands `sink` the gradient at the map's result, and adds the gradient at the map's input to `input`.
    fn back(&self, gradient: &[f32], input: &mut [f32], sink: GradientSink) {
        sink(&self.name, gradient);
        self.weight.add_transposed(gradient, input);
    }
}
