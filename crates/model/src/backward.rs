//! The backward pass through one block: gradients of the activations.
//!
//! Weights have no gradients here, because calibration needs only those of the activations. The pass handles one whole
//! sequence without earlier tokens, and computes the block's forward pass again. Source: the chain rule. The tests
//! compare the gradients with finite differences of the forward pass, which other tests compare with `transformers`.

use crate::block::{LoadedAttention, LoadedBody, LoadedFeedForward};
use crate::linear::{Linear, apply_all};
use crate::{Activation, Block, Positions};
use kvant_kernels::{Backend, Qkv, Ragged, attention, gradient, ops};

/// Receives the name of a weight and the gradient at the output of its linear map, tokens × rows.
pub type GradientSink<'a> = &'a mut dyn FnMut(&str, &[f32]);

impl Block {
    /// Returns the gradient at the residual stream before the block. `residual` is the residual stream before the
    /// block, tokens × hidden. `output_gradient` is the gradient at the residual stream after the block. `sink`
    /// receives the gradient at the output of each linear map.
    pub fn backward(
        &self,
        residual: &[f32],
        output_gradient: &[f32],
        positions: &Positions,
        sink: GradientSink,
    ) -> Vec<f32> {
        let backend = &self.backend;
        // For each sublayer: the residual stream before it, and its forward pass.
        let mut passes: Vec<(Vec<f32>, Pass)> = Vec::with_capacity(self.sublayers.len());
        let mut stream = residual.to_vec();
        for (index, sublayer) in self.sublayers.iter().enumerate() {
            let input = sublayer.input(backend, &stream);
            let before = stream.clone();
            // The residual stream after the last sublayer is not needed.
            let has_next = index + 1 < self.sublayers.len();
            let pass = match &sublayer.body {
                LoadedBody::Attention(a) => {
                    let pass = a.forward(backend, &input, positions);
                    if has_next {
                        a.output.add(backend, &pass.attended, &mut stream);
                    }
                    Pass::Attention(a, pass)
                }
                LoadedBody::FeedForward(f) => {
                    if has_next {
                        f.down.add(backend, &f.inner(backend, &input), &mut stream);
                    }
                    Pass::FeedForward(f, input)
                }
            };
            passes.push((before, pass));
        }
        let mut gradient = output_gradient.to_vec();
        for (sublayer, (residual, pass)) in self.sublayers.iter().zip(passes).rev() {
            let mut input_gradient = vec![0.0; residual.len()];
            match pass {
                Pass::Attention(a, pass) => {
                    a.backward(backend, pass, &gradient, positions, &mut input_gradient, sink);
                }
                Pass::FeedForward(f, input) => {
                    f.backward(backend, &input, &gradient, &mut input_gradient, sink)
                }
            }
            match &sublayer.before {
                Some(norm) => norm.add_gradient(backend, &residual, &input_gradient, &mut gradient),
                None => ops::add(backend, &mut gradient, &input_gradient),
            }
        }
        gradient
    }
}

/// The values of a sublayer's forward pass that its backward pass needs.
enum Pass<'a> {
    Attention(&'a LoadedAttention, AttentionPass),
    /// The network and the input of its body.
    FeedForward(&'a LoadedFeedForward, Vec<f32>),
}

/// The values of an attention's forward pass that its backward pass needs.
struct AttentionPass {
    /// Queries and keys before their norms; `None` if they have no norms.
    projected: Option<[Vec<f32>; 2]>,
    qkv: Qkv,
    attended: Vec<f32>,
}

impl LoadedAttention {
    fn forward(&self, backend: &Backend, input: &[f32], positions: &Positions) -> AttentionPass {
        let mut qkv = self.project(backend, input);
        let normed = self.query_norm.is_some() || self.key_norm.is_some();
        let projected = normed.then(|| [qkv.query.clone(), qkv.key.clone()]);
        self.norm_and_rotate(backend, &mut qkv, positions);
        let mut attended = vec![0.0; qkv.query.len()];
        let (mut states, tokens) = (self.empty_key_values(), positions.tokens());
        let sequence = Ragged { states: &mut states, tokens };
        attention(backend, &self.shape, &qkv, &mut [sequence], &mut attended);
        AttentionPass { projected, qkv, attended }
    }

    /// Adds the gradient at the input to `input_gradient`. `gradient` is the gradient at the residual stream after the
    /// sublayer.
    fn backward(
        &self,
        backend: &Backend,
        AttentionPass { projected, qkv, mut attended }: AttentionPass,
        gradient: &[f32],
        positions: &Positions,
        input_gradient: &mut [f32],
        sink: GradientSink,
    ) {
        attended.fill(0.0);
        self.output.backward(gradient, &mut attended, sink);
        let mut gradients = gradient::attention(backend, &self.shape, &qkv, &attended);
        self.rotate(backend, &mut gradients, &positions.inverse());
        if let Some([query, key]) = &projected {
            for (norm, x, gradient) in
                [(&self.query_norm, query, &mut gradients.query), (&self.key_norm, key, &mut gradients.key)]
            {
                if let Some(norm) = norm {
                    let mut before_norm = vec![0.0; x.len()];
                    norm.add_gradient(backend, x, gradient, &mut before_norm);
                    *gradient = before_norm;
                }
            }
        }
        if self.query.name == self.value.name {
            let rows = [&self.query, &self.key, &self.value].map(|map| map.weight.rows());
            // The three maps are parts of one fused weight.
            sink(
                &self.query.name,
                &concatenate_rows([&gradients.query, &gradients.key, &gradients.value], rows),
            );
            for (map, gradient) in [
                (&self.query, &gradients.query),
                (&self.key, &gradients.key),
                (&self.value, &gradients.value),
            ] {
                map.weight.add_transposed(gradient, input_gradient);
            }
        } else {
            self.query.backward(&gradients.query, input_gradient, sink);
            self.key.backward(&gradients.key, input_gradient, sink);
            self.value.backward(&gradients.value, input_gradient, sink);
        }
    }
}

/// Concatenates three matrices row by row: row `i` of the result has row `i` of each matrix.
fn concatenate_rows(parts: [&[f32]; 3], columns: [usize; 3]) -> Vec<f32> {
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
    /// Adds the gradient at `input` to `input_gradient`. `gradient` is the gradient at the residual stream after the
    /// sublayer.
    fn backward(
        &self,
        backend: &Backend,
        input: &[f32],
        gradient: &[f32],
        input_gradient: &mut [f32],
        sink: GradientSink,
    ) {
        let (mut gate, mut up) = match &self.gate {
            Some(gate) => {
                let [gate, up] = apply_all(backend, [gate, &self.up], input);
                (Some(gate), up)
            }
            None => (None, self.up.apply(backend, &self.up.input(input))),
        };
        let mut inner_gradient = vec![0.0; up.len()];
        self.down.backward(gradient, &mut inner_gradient, sink);
        match (self.activation, &mut gate) {
            (Activation::Silu, Some(gate)) => gradient::swiglu(backend, gate, &mut up, &inner_gradient),
            (Activation::Silu, None) => {
                let mut ones = vec![1.0; up.len()];
                gradient::swiglu(backend, &mut up, &mut ones, &inner_gradient);
            }
            (Activation::GeluTanh, Some(gate)) => {
                let mut activated = gate.clone();
                ops::gelu_tanh(backend, &mut activated);
                ops::multiply(backend, &mut activated, &inner_gradient);
                ops::multiply(backend, &mut inner_gradient, &up);
                gradient::gelu_tanh(backend, gate, &inner_gradient);
                up = activated;
            }
            (Activation::GeluTanh, None) => gradient::gelu_tanh(backend, &mut up, &inner_gradient),
        }
        if let (Some(map), Some(gate)) = (&self.gate, &gate) {
            map.backward(gate, input_gradient, sink);
        }
        self.up.backward(&up, input_gradient, sink);
    }
}

impl Linear {
    /// Passes the gradient at the map's output to `sink`, and adds the gradient at the map's input to `input_gradient`.
    fn backward(&self, gradient: &[f32], input_gradient: &mut [f32], sink: GradientSink) {
        sink(&self.name, gradient);
        self.weight.add_transposed(gradient, input_gradient);
    }
}
