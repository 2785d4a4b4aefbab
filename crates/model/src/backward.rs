//! The backward pass through one block: gradients of the activations.
//!
//! Weights have no gradients here, because calibration needs only those of the activations. The pass handles one whole
//! sequence without earlier tokens, and computes the block's forward pass again. Source: the chain rule. The tests
//! compare the gradients with finite differences of the forward pass, which other tests compare with `transformers`.

use crate::attention::{LoadedAttention, multiply_by_sigmoid};
use crate::block::{LoadedBody, LoadedSublayer};
use crate::delta_net::LoadedDeltaNet;
use crate::experts::LoadedExperts;
use crate::feed_forward::{LoadedFeedForward, activate, scale_rows, sigmoid};
use crate::layer_embedding::LoadedLayerGate;
use crate::linear::{Linear, apply_all};
use crate::norm::LoadedNorm;
use crate::short_convolution::LoadedShortConvolution;
use crate::stream::StreamStates;
use crate::{Activation, Block, Positions};
use kvant_kernels::{Backend, Qkv, Ragged, attention, gradient, ops};

/// Receives the name of a weight and the gradient at the output of its linear map, tokens × rows.
pub type GradientSink<'a> = &'a mut dyn FnMut(&str, &[f32]);

impl Block {
    /// Returns the gradient at the stream before the block. `before` is the stream before the block, tokens ×
    /// [`crate::Spec::stream_width`]. `output_gradient` is the gradient at the stream after the block. `sink` receives the
    /// gradient at the output of each linear map.
    pub fn backward(
        &self,
        before: &[f32],
        output_gradient: &[f32],
        positions: &Positions,
        sink: GradientSink,
    ) -> Vec<f32> {
        let backend = &self.backend;
        let tokens = positions.tokens();
        let mut passes: Vec<SublayerPass> = Vec::with_capacity(self.sublayers.len());
        let mut stream = self.layout.residual(before).to_vec();
        // The result of a sublayer that waits for the sum with the next one.
        let mut held = Vec::new();
        for (index, sublayer) in self.sublayers.iter().enumerate() {
            let residual = match passes.last() {
                Some(previous) if sublayer.parallel => previous.residual.clone(),
                _ => stream.clone(),
            };
            let input = sublayer.input(backend, &residual);
            let has_next = index + 1 < self.sublayers.len();
            let norm_after_addition = sublayer.sum_norm.is_some() || sublayer.residual_norm.is_some();
            let needs_result = has_next || sublayer.after.is_some() || norm_after_addition;
            let apply = |map: &Linear, x: &[f32]| map.apply(backend, &map.input(x));
            let (body, result) = match &sublayer.body {
                LoadedBody::Attention(a) => {
                    let pass = a.forward(backend, &input, before, positions);
                    let result = needs_result.then(|| apply(&a.output, &pass.attended));
                    (Pass::Attention(a, pass), result)
                }
                LoadedBody::DeltaNet(d) => {
                    let result = needs_result.then(|| d.result_alone(backend, &input));
                    (Pass::DeltaNet(d, input), result)
                }
                LoadedBody::ShortConvolution(c) => {
                    let result = needs_result.then(|| c.result_alone(backend, &input));
                    (Pass::ShortConvolution(c, input), result)
                }
                LoadedBody::FeedForward(f) => {
                    let result = needs_result.then(|| apply(&f.down, &f.inner(backend, &input)));
                    (Pass::FeedForward(f, input), result)
                }
                LoadedBody::LayerGate(l) => {
                    let inner = || l.inner(backend, &input, &before[l.part.range(tokens)]);
                    let result = needs_result.then(|| apply(&l.output, &inner()));
                    (Pass::LayerGate(l, input), result)
                }
                LoadedBody::Experts(e) => {
                    let result = || {
                        let of_router = e.router_norm.as_ref().map(|norm| norm.apply(backend, &residual));
                        let routing = e.route(backend, of_router.as_ref().unwrap_or(&input));
                        e.result(backend, &e.inner(backend, &input, &routing), &routing)
                    };
                    let result = needs_result.then(result);
                    (Pass::Experts(e, input), result)
                }
            };
            let mut sum = Vec::new();
            let mut unnormed = Vec::new();
            if let (true, Some(result)) = (has_next || norm_after_addition, &result) {
                let mut normed = sublayer.normed(backend, result.clone());
                if self.sublayers.get(index + 1).is_some_and(|next| next.sum_norm.is_some()) {
                    held = normed;
                } else {
                    if let Some(norm) = &sublayer.sum_norm {
                        ops::add(backend, &mut normed, &held);
                        sum = normed;
                        normed = norm.apply(backend, &sum);
                    }
                    sublayer.add_without_norm(backend, normed, &mut stream);
                    if let Some(norm) = &sublayer.residual_norm {
                        unnormed.clone_from(&stream);
                        norm.apply_into(backend, &unnormed, &mut stream);
                    }
                }
            }
            let result = result.filter(|_| sublayer.after.is_some()).unwrap_or_default();
            passes.push(SublayerPass { residual, body, result, sum, unnormed });
        }
        let (of_residual, beside) = output_gradient.split_at(stream.len());
        let mut gradient: Vec<f32> = of_residual.iter().map(|x| x * self.scale).collect();
        // The gradient at the parts of the stream beside the residual stream, at their places in the stream.
        let mut at_stream = vec![0.0; before.len()];
        at_stream[stream.len()..].copy_from_slice(beside);
        // The block writes 0 there.
        at_stream[self.layout.held_range(before)].fill(0.0);
        // The gradient at the input of a parallel sublayer, which is the input of the previous sublayer, too.
        let mut of_parallel: Option<Vec<f32>> = None;
        // The gradient at a result that waits for the sum with the next one.
        let mut of_held: Option<Vec<f32>> = None;
        for (sublayer, pass) in self.sublayers.iter().zip(passes).rev() {
            if let Some(norm) = &sublayer.residual_norm {
                let of_norm = std::mem::replace(&mut gradient, vec![0.0; pass.unnormed.len()]);
                norm.add_gradient(backend, &pass.unnormed, &of_norm, &mut gradient);
            }
            let at_result = of_held.take().unwrap_or_else(|| sublayer.at_sum(backend, &pass.sum, &gradient));
            if sublayer.sum_norm.is_some() {
                of_held = Some(at_result.clone());
            }
            let result_gradient = sublayer.result_gradient(backend, &pass.result, at_result);
            let mut router_gradient: Option<Vec<f32>> = None;
            let mut input_gradient = vec![0.0; gradient.len()];
            match pass.body {
                Pass::Attention(a, body) => {
                    let of_states = StatesGradient { at_stream: &mut at_stream, tokens };
                    let gradients = (&result_gradient[..], &mut input_gradient[..]);
                    a.backward(backend, body, gradients, positions, of_states, sink);
                }
                Pass::LayerGate(l, input) => {
                    let part = l.part.range(tokens);
                    let inputs = [&input[..], &before[part.clone()]];
                    let gradients = [&mut input_gradient[..], &mut at_stream[part]];
                    l.backward(backend, inputs, &result_gradient, gradients, sink);
                }
                Pass::DeltaNet(d, input) => {
                    d.backward(backend, &input, &result_gradient, &mut input_gradient, sink)
                }
                Pass::ShortConvolution(c, input) => {
                    c.backward(backend, &input, &result_gradient, &mut input_gradient, sink)
                }
                Pass::FeedForward(f, input) => {
                    f.backward(backend, &input, &result_gradient, &mut input_gradient, sink)
                }
                Pass::Experts(e, input) => {
                    let router_input = e.router_norm.as_ref().map(|norm| norm.apply(backend, &pass.residual));
                    router_gradient = router_input.as_ref().map(|input| vec![0.0; input.len()]);
                    let router = router_input.as_deref().zip(router_gradient.as_deref_mut());
                    e.backward(backend, &input, router, &result_gradient, &mut input_gradient, sink);
                }
            }
            let mut at_residual = of_parallel.take().unwrap_or_else(|| vec![0.0; gradient.len()]);
            match &sublayer.before {
                Some(norm) => norm.add_gradient(backend, &pass.residual, &input_gradient, &mut at_residual),
                None => ops::add(backend, &mut at_residual, &input_gradient),
            }
            if let (LoadedBody::Experts(e), Some(gradient)) = (&sublayer.body, &router_gradient)
                && let Some(norm) = &e.router_norm
            {
                norm.add_gradient(backend, &pass.residual, gradient, &mut at_residual);
            }
            if sublayer.parallel {
                of_parallel = Some(at_residual);
            } else {
                ops::add(backend, &mut gradient, &at_residual);
            }
        }
        at_stream[..gradient.len()].copy_from_slice(&gradient);
        at_stream
    }
}

/// The gradient at a stream of `tokens` tokens.
struct StatesGradient<'a> {
    at_stream: &'a mut [f32],
    tokens: usize,
}

/// The values of a sublayer's forward pass that its backward pass needs.
struct SublayerPass<'a> {
    /// The residual stream that the sublayer reads.
    residual: Vec<f32>,
    body: Pass<'a>,
    /// The body's result, if it has a norm; else empty.
    result: Vec<f32>,
    /// The residual stream after the addition, if it has a norm; else empty.
    unnormed: Vec<f32>,
    /// The sum of this result and the previous one, if it has a norm; else empty.
    sum: Vec<f32>,
}

/// The values of a body's forward pass that its backward pass needs.
enum Pass<'a> {
    Attention(&'a LoadedAttention, AttentionPass),
    /// The gated delta net and its input.
    DeltaNet(&'a LoadedDeltaNet, Vec<f32>),
    /// The short convolution and its input.
    ShortConvolution(&'a LoadedShortConvolution, Vec<f32>),
    /// The network and the input of its body.
    FeedForward(&'a LoadedFeedForward, Vec<f32>),
    /// The experts and the input of their body.
    Experts(&'a LoadedExperts, Vec<f32>),
    /// The gate and the input of its body.
    LayerGate(&'a LoadedLayerGate, Vec<f32>),
}

impl LoadedSublayer {
    /// Returns the gradient at the body's result after its norm, from the gradient at the residual stream. `sum` is the
    /// sum of this result and the previous one, if it has a norm.
    fn at_sum(&self, backend: &Backend, sum: &[f32], gradient: &[f32]) -> Vec<f32> {
        let scaled: Vec<f32> = gradient.iter().map(|x| x * self.scale).collect();
        before_norm(backend, &self.sum_norm, sum, scaled)
    }

    /// Returns the gradient at the body's result from the gradient after its norm.
    fn result_gradient(&self, backend: &Backend, result: &[f32], gradient: Vec<f32>) -> Vec<f32> {
        before_norm(backend, &self.after, result, gradient)
    }
}

/// Returns the gradient at `x`, the input of a norm, from the gradient at its output.
fn before_norm(backend: &Backend, norm: &Option<LoadedNorm>, x: &[f32], gradient: Vec<f32>) -> Vec<f32> {
    let Some(norm) = norm else { return gradient };
    let mut before = vec![0.0; x.len()];
    norm.add_gradient(backend, x, &gradient, &mut before);
    before
}

/// The values of an attention's forward pass that its backward pass needs.
struct AttentionPass {
    /// Queries, keys and values before their norms; empty for those without a norm.
    projected: [Vec<f32>; 3],
    qkv: Qkv,
    /// The gate before the sigmoid function, and the result of the attention before its gate; empty without a gate.
    gate: Vec<f32>,
    ungated: Vec<f32>,
    /// The input of the output projection.
    attended: Vec<f32>,
}

impl LoadedAttention {
    fn forward(
        &self,
        backend: &Backend,
        input: &[f32],
        stream: &[f32],
        positions: &Positions,
    ) -> AttentionPass {
        let (mut qkv, gate) = self.project(backend, input);
        let [query, key, value] = self.norms().map(Option::is_some);
        let copy = |kept: bool, x: &[f32]| if kept { x.to_vec() } else { Vec::new() };
        let projected = [copy(query, &qkv.query), copy(key, &qkv.key), copy(value, &qkv.value)];
        self.norm_and_rotate(backend, &mut qkv, positions);
        let mut attended = vec![0.0; qkv.query.len()];
        let (mut states, tokens) = (self.empty_key_values(), positions.tokens());
        if let Some(StreamStates { keys, values }) = self.reads {
            qkv.key = stream[keys.range(tokens)].to_vec();
            qkv.value = stream[values.range(tokens)].to_vec();
        }
        let sequence = Ragged { states: &mut states, tokens };
        attention(backend, &self.shape, &qkv, &mut [sequence], &mut attended);
        let ungated = if self.gated { attended.clone() } else { Vec::new() };
        multiply_by_sigmoid(&mut attended, &gate);
        AttentionPass { projected, qkv, gate, ungated, attended }
    }

    /// Adds the gradient at the input to `input_gradient`. `gradient` is the gradient at the result. Shared keys and
    /// values pass their gradient on through the stream.
    fn backward(
        &self,
        backend: &Backend,
        AttentionPass { projected, qkv, gate, ungated, mut attended }: AttentionPass,
        (gradient, input_gradient): (&[f32], &mut [f32]),
        positions: &Positions,
        StatesGradient { at_stream, tokens }: StatesGradient,
        sink: GradientSink,
    ) {
        attended.fill(0.0);
        self.output.backward(gradient, &mut attended, sink);
        let at_gate: Vec<f32> = (ungated.iter().zip(&gate).zip(&attended))
            .map(|((x, gate), gradient)| {
                let sigmoid = sigmoid(*gate);
                gradient * x * sigmoid * (1.0 - sigmoid)
            })
            .collect();
        multiply_by_sigmoid(&mut attended, &gate);
        let mut gradients = gradient::attention(backend, &self.shape, &qkv, &attended);
        if let Some(StreamStates { keys, values }) = self.keeps {
            // The block replaces these parts of the stream, so the gradient before the block is 0.
            for (gradient, part) in [(&mut gradients.key, keys), (&mut gradients.value, values)] {
                let of_later = &mut at_stream[part.range(tokens)];
                ops::add(backend, gradient, of_later);
                of_later.fill(0.0);
            }
        }
        if let Some(StreamStates { keys, values }) = self.reads {
            ops::add(backend, &mut at_stream[keys.range(tokens)], &gradients.key);
            ops::add(backend, &mut at_stream[values.range(tokens)], &gradients.value);
            gradients.key.clear();
        }
        self.rotate(backend, &mut gradients, &positions.inverse());
        let all = [&mut gradients.query, &mut gradients.key, &mut gradients.value];
        for ((norm, x), gradient) in self.norms().into_iter().zip(&projected).zip(all) {
            if let Some(norm) = norm {
                let mut before_norm = vec![0.0; x.len()];
                norm.add_gradient(backend, x, gradient, &mut before_norm);
                *gradient = before_norm;
            }
        }
        let Qkv { mut query, mut key, value } = gradients;
        if self.gated {
            query = self.with_gates(&query, &at_gate);
        }
        match (&self.key, &self.value) {
            (Some(key_map), Some(value_map)) => {
                let maps = [&self.query, key_map, value_map];
                backward_all(maps, [&query, &key, &value], input_gradient, sink);
            }
            (Some(key_map), None) => {
                ops::add(backend, &mut key, &value);
                backward_all([&self.query, key_map], [&query, &key], input_gradient, sink);
            }
            (None, _) => self.query.backward(&query, input_gradient, sink),
        }
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
pub(crate) fn concatenate_rows<const N: usize>(parts: [&[f32]; N], columns: [usize; N]) -> Vec<f32> {
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
            (Activation::ClampedSwiglu(settings), Some(gate)) => {
                gradient::clamped_swiglu(backend, gate, &mut up, &inner_gradient, settings);
            }
            (activation, Some(gate)) => {
                let mut activated = gate.clone();
                activate(backend, activation, &mut activated, None);
                ops::multiply(backend, &mut activated, &inner_gradient);
                ops::multiply(backend, &mut inner_gradient, &up);
                activation_gradient(backend, activation, gate, &inner_gradient);
                up = activated;
            }
            (activation, None) => activation_gradient(backend, activation, &mut up, &inner_gradient),
        }
        match (&self.gate, &gate) {
            (Some(map), Some(gate)) => backward_all([map, &self.up], [gate, &up], input_gradient, sink),
            _ => self.up.backward(&up, input_gradient, sink),
        }
    }
}

/// Replaces the input `x` of an activation function by the gradient at `x`.
pub(crate) fn activation_gradient(
    backend: &Backend,
    activation: Activation,
    x: &mut [f32],
    gradient: &[f32],
) {
    match activation {
        Activation::Silu => gradient::swiglu(backend, x, &mut vec![1.0; x.len()], gradient),
        Activation::ClampedSwiglu(settings) => {
            gradient::clamped_swiglu(backend, x, &mut vec![0.0; x.len()], gradient, settings);
        }
        Activation::Gelu => gradient::gelu(backend, x, gradient),
        Activation::GeluTanh => gradient::gelu_tanh(backend, x, gradient),
    }
}

impl Linear {
    /// Passes the gradient at the map's output to `sink`, and adds the gradient at the map's input to `input_gradient`.
    pub fn backward(&self, gradient: &[f32], input_gradient: &mut [f32], sink: GradientSink) {
        sink(&self.name, gradient);
        self.weight.add_transposed(gradient, input_gradient);
    }
}
