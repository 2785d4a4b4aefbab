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
        // Of each sublayer: the residual stream before it, and its forward pass.
        let mut passed: Vec<(Vec<f32>, Pass)> = Vec::with_capacity(self.sublayers.len());
        let mut stream = residual.to_vec();
        for (index, sublayer) in self.sublayers.iter().enumerate() {
            let input = sublayer.enter(backend, &stream);
            let before = stream.clone();
            // Nothing reads the stream after the last one.
            let goes_on = index + 1 < self.sublayers.len();
            let pass = match &sublayer.body {
                LoadedBody::Attention(a) => {
                    let pass = a.forward(backend, &input, positions);
                    if goes_on {
                        a.output.add(backend, &pass.attended, &mut stream);
                    }
                    Pass::Attention(a, pass)
                }
                LoadedBody::FeedForward(f) => {
                    if goes_on {
                        f.down.add(backend, &f.inner(backend, &input), &mut stream);
                    }
                    Pass::FeedForward(f, input)
                }
            };
            passed.push((before, pass));
        }
        let mut gradient = after.to_vec();
        for (sublayer, (residual, pass)) in self.sublayers.iter().zip(passed).rev() {
            let mut at_input = vec![0.0; residual.len()];
            match pass {
                Pass::Attention(a, pass) => {
                    a.backward(backend, pass, &gradient, positions, &mut at_input, sink);
                }
                Pass::FeedForward(f, input) => f.backward(backend, &input, &gradient, &mut at_input, sink),
            }
            match &sublayer.before {
                Some(norm) => norm.add_gradient(backend, &residual, &at_input, &mut gradient),
                None => ops::add(backend, &mut gradient, &at_input),
            }
        }
        gradient
    }
}

/// A sublayer's forward pass, as its backward pass needs it.
enum Pass<'a> {
    Attention(&'a LoadedAttention, AttentionPass),
    /// With what the body has read.
    FeedForward(&'a LoadedFeedForward, Vec<f32>),
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

    /// Adds the gradient at the input to `at_input`; `gradient` is that at the residual stream after the sublayer.
    fn backward(
        &self,
        backend: &Backend,
        AttentionPass { projected, read, mut attended }: AttentionPass,
        gradient: &[f32],
        positions: &Positions,
        at_input: &mut [f32],
        sink: GradientSink,
    ) {
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
        if self.query.name == self.value.name {
            let rows = [&self.query, &self.key, &self.value].map(|map| map.weight.rows());
            sink(&self.query.name, &side_by_side([&at.query, &at.key, &at.value], rows));
            for (map, at) in [(&self.query, &at.query), (&self.key, &at.key), (&self.value, &at.value)] {
                map.weight.add_transposed(at, at_input);
            }
        } else {
            self.query.back(&at.query, at_input, sink);
            self.key.back(&at.key, at_input, sink);
            self.value.back(&at.value, at_input, sink);
        }
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
    /// Adds the gradient at `input` to `at_input`; `gradient` is that at the residual stream after the sublayer.
    fn backward(
        &self,
        backend: &Backend,
        input: &[f32],
        gradient: &[f32],
        at_input: &mut [f32],
        sink: GradientSink,
    ) {
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
        if let (Some(map), Some(gate)) = (&self.gate, &gate) {
            map.back(gate, at_input, sink);
        }
        self.up.back(&up, at_input, sink);
    }
}

impl Linear {
    /// Hands `sink` the gradient at the map's result, and adds the gradient at the map's input to `input`.
    fn back(&self, gradient: &[f32], input: &mut [f32], sink: GradientSink) {
        sink(&self.name, gradient);
        self.weight.add_transposed(gradient, input);
    }
}
