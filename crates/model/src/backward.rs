//! The backward pass through one block: gradients of the activations.
//!
//! Weights have no gradients here, because calibration needs only those of the activations. The pass handles one whole
//! sequence without earlier tokens, and computes the block's forward pass again. Source: the chain rule. The tests
//! compare the gradients with finite differences of the forward pass, which other tests compare with `transformers`.

use crate::attention::LoadedAttention;
use crate::block::{LoadedBody, LoadedSublayer};
use crate::experts::LoadedExperts;
use crate::feed_forward::{LoadedFeedForward, activate, scale_rows};
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
        let mut passes: Vec<SublayerPass> = Vec::with_capacity(self.sublayers.len());
        let mut stream = residual.to_vec();
        for (index, sublayer) in self.sublayers.iter().enumerate() {
            let residual = match passes.last() {
                Some(previous) if sublayer.parallel => previous.residual.clone(),
                _ => stream.clone(),
            };
            let input = sublayer.input(backend, &residual);
            let has_next = index + 1 < self.sublayers.len();
            let needs_result = has_next || sublayer.after.is_some() || sublayer.of_sum.is_some();
            let apply = |map: &Linear, x: &[f32]| map.apply(backend, &map.input(x));
            let (body, result) = match &sublayer.body {
                LoadedBody::Attention(a) => {
                    let pass = a.forward(backend, &input, positions);
                    let result = needs_result.then(|| apply(&a.output, &pass.attended));
                    (Pass::Attention(a, pass), result)
                }
                LoadedBody::FeedForward(f) => {
                    let result = needs_result.then(|| apply(&f.down, &f.inner(backend, &input)));
                    (Pass::FeedForward(f, input), result)
                }
                LoadedBody::Experts(e) => {
                    let result = || {
                        let routing = e.route(backend, &input);
                        e.result(backend, &e.inner(backend, &input, &routing), &routing)
                    };
                    let result = needs_result.then(result);
                    (Pass::Experts(e, input), result)
                }
            };
            let mut sum = Vec::new();
            if let Some(result) = &result {
                sublayer.add_without_norm(backend, result.clone(), &mut stream);
                if let Some(norm) = &sublayer.of_sum {
                    sum.clone_from(&stream);
                    norm.apply_into(backend, &sum, &mut stream);
                }
            }
            let result = result.filter(|_| sublayer.after.is_some()).unwrap_or_default();
            passes.push(SublayerPass { residual, body, result, sum });
        }
        let mut gradient = output_gradient.to_vec();
        // The gradient at the input of a parallel sublayer, which is the input of the previous sublayer, too.
        let mut of_parallel: Option<Vec<f32>> = None;
        for (sublayer, pass) in self.sublayers.iter().zip(passes).rev() {
            if let Some(norm) = &sublayer.of_sum {
                let of_norm = std::mem::replace(&mut gradient, vec![0.0; pass.sum.len()]);
                norm.add_gradient(backend, &pass.sum, &of_norm, &mut gradient);
            }
            let result_gradient = sublayer.result_gradient(backend, &pass.result, &gradient);
            let mut input_gradient = vec![0.0; gradient.len()];
            match pass.body {
                Pass::Attention(a, body) => {
                    a.backward(backend, body, &result_gradient, positions, &mut input_gradient, sink);
                }
                Pass::FeedForward(f, input) => {
                    f.backward(backend, &input, &result_gradient, &mut input_gradient, sink)
                }
                Pass::Experts(e, input) => {
                    e.backward(backend, &input, &result_gradient, &mut input_gradient, sink)
                }
            }
            let mut at_residual = of_parallel.take().unwrap_or_else(|| vec![0.0; gradient.len()]);
            match &sublayer.before {
                Some(norm) => norm.add_gradient(backend, &pass.residual, &input_gradient, &mut at_residual),
                None => ops::add(backend, &mut at_residual, &input_gradient),
            }
            if sublayer.parallel {
                of_parallel = Some(at_residual);
            } else {
                ops::add(backend, &mut gradient, &at_residual);
            }
        }
        gradient
    }
}

/// The values of a sublayer's forward pass that its backward pass needs.
struct SublayerPass<'a> {
    /// The residual stream that the sublayer reads.
    residual: Vec<f32>,
    body: Pass<'a>,
    /// The body's result, if it has a norm; else empty.
    result: Vec<f32>,
    /// The residual stream after the addition, if it has a norm; else empty.
    sum: Vec<f32>,
}

/// The values of a body's forward pass that its backward pass needs.
enum Pass<'a> {
    Attention(&'a LoadedAttention, AttentionPass),
    /// The network and the input of its body.
    FeedForward(&'a LoadedFeedForward, Vec<f32>),
    /// The experts and the input of their body.
    Experts(&'a LoadedExperts, Vec<f32>),
}

impl LoadedSublayer {
    /// Returns the gradient at the body's result from the gradient at the residual stream.
    fn result_gradient(&self, backend: &Backend, result: &[f32], gradient: &[f32]) -> Vec<f32> {
        let scaled: Vec<f32> = gradient.iter().map(|x| x * self.scale).collect();
        let Some(norm) = &self.after else { return scaled };
        let mut before_norm = vec![0.0; result.len()];
        norm.add_gradient(backend, result, &scaled, &mut before_norm);
        before_norm
    }
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

    /// Adds the gradient at the input to `input_gradient`. `gradient` is the gradient at the result.
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
        let maps = [&self.query, &self.key, &self.value];
        backward_all(maps, [&gradients.query, &gradients.key, &gradients.value], input_gradient, sink);
    }
}

/// Passes the gradients at the outputs of maps with one input to `sink`, and adds the gradient at the input to
/// `input_gradient`. The maps are all of the parts of one fused weight, or they have separate weights.
fn backward_all<const N: usize>(
    maps: [&Linear; N],
    gradients: [&[f32]; N],
    input_gradient: &mut [f32],
    sink: GradientSink,
) {
    if maps.iter().any(|map| map.name != maps[0].name) {
        maps.iter().zip(gradients).for_each(|(map, gradient)| map.backward(gradient, input_gradient, sink));
        return;
    }
    sink(&maps[0].name, &concatenate_rows(gradients, maps.map(|map| map.weight.rows())));
    maps.iter().zip(gradients).for_each(|(map, x)| map.weight.add_transposed(x, input_gradient));
}

/// Concatenates matrices row by row: row `i` of the result has row `i` of each matrix.
fn concatenate_rows<const N: usize>(parts: [&[f32]; N], columns: [usize; N]) -> Vec<f32> {
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
    /// Adds the gradient at `input` to `input_gradient`. `gradient` is the gradient at the result.
    pub fn backward(
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
        if let (Some(map), Some(factors)) = (&self.factor, self.factors(backend, input)) {
            // inner = s · unscaled, with s = sigmoid(score): the gradient at the score is s (1 − s) Σ gradient · unscaled.
            let unscaled = self.unscaled_inner(backend, input);
            let columns = unscaled.len() / factors.len();
            let rows = inner_gradient.chunks_exact(columns).zip(unscaled.chunks_exact(columns));
            let at_scores: Vec<f32> = rows
                .zip(&factors)
                .map(|((gradient, x), s)| {
                    s * (1.0 - s) * gradient.iter().zip(x).map(|(a, b)| a * b).sum::<f32>()
                })
                .collect();
            map.backward(&at_scores, input_gradient, sink);
            scale_rows(&mut inner_gradient, &factors);
        }
        match (self.activation, &mut gate) {
            (Activation::Silu, Some(gate)) => gradient::swiglu(backend, gate, &mut up, &inner_gradient),
            (Activation::Silu, None) => {
                let mut ones = vec![1.0; up.len()];
                gradient::swiglu(backend, &mut up, &mut ones, &inner_gradient);
            }
            (activation, Some(gate)) => {
                let mut activated = gate.clone();
                activate(backend, activation, &mut activated, None);
                ops::multiply(backend, &mut activated, &inner_gradient);
                ops::multiply(backend, &mut inner_gradient, &up);
                gelu_gradient(backend, activation, gate, &inner_gradient);
                up = activated;
            }
            (activation, None) => gelu_gradient(backend, activation, &mut up, &inner_gradient),
        }
        match (&self.gate, &gate) {
            (Some(map), Some(gate)) => backward_all([map, &self.up], [gate, &up], input_gradient, sink),
            _ => self.up.backward(&up, input_gradient, sink),
        }
    }
}

/// Replaces the input `x` of GELU by the gradient at `x`.
fn gelu_gradient(backend: &Backend, activation: Activation, x: &mut [f32], gradient: &[f32]) {
    match activation {
        Activation::Gelu => gradient::gelu(backend, x, gradient),
        _ => gradient::gelu_tanh(backend, x, gradient),
    }
}

impl Linear {
    /// Passes the gradient at the map's output to `sink`, and adds the gradient at the map's input to `input_gradient`.
    fn backward(&self, gradient: &[f32], input_gradient: &mut [f32], sink: GradientSink) {
        sink(&self.name, gradient);
        self.weight.add_transposed(gradient, input_gradient);
    }
}
