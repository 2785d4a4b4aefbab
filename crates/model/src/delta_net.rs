//! A gated delta net with loaded weights: its forward pass and its gradient.

use crate::backward::concatenate_rows;
use crate::feed_forward::sigmoid;
use crate::linear::{Linear, apply_many};
use crate::norm::LoadedNorm;
use crate::short_convolution::load_convolution;
use crate::{DeltaNet, Error, GradientSink, Slot, Weights, buffers};
use kvant_kernels::{
    Backend, Convolution, DeltaInput, DeltaShape, RecurrentState, delta_rule, delta_rule_gradient, gradient,
    ops, short_convolution, short_convolution_gradient, unit_rows, unit_rows_gradient,
};

/// A gated delta net with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedDeltaNet {
    pub qkv: Linear,
    pub gate: Linear,
    /// The maps of the strengths and of the steps, or one map for both.
    pub scalars: Vec<Linear>,
    pub output: Linear,
    shape: DeltaShape,
    /// Floats of the last inputs of the convolution.
    convolution_length: usize,
    state_length: usize,
    /// Tokens × channels.
    convolution: Vec<f32>,
    decay: Vec<f32>,
    step_bias: Vec<f32>,
    norm: LoadedNorm,
}

/// The results of the maps that read the input, one row per token.
struct Projected {
    qkv: Vec<f32>,
    gate: Vec<f32>,
    /// Before the sigmoid function.
    strength: Vec<f32>,
    /// Before the bias and the softplus function.
    step: Vec<f32>,
}

/// The inputs of the gated delta rule, one row per token.
struct RuleInput {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    log_decay: Vec<f32>,
    strength: Vec<f32>,
}

impl RuleInput {
    fn borrowed(&self) -> DeltaInput<'_> {
        let Self { query, key, value, log_decay, strength } = self;
        DeltaInput { query, key, value, log_decay, strength }
    }
}

impl LoadedDeltaNet {
    pub fn load(weights: &Weights, backend: &Backend, spec: &DeltaNet) -> Result<Self, Error> {
        // Few rows, and the state of all later tokens depends on them.
        let precise = backend.clone().precise();
        let scalar = |slot: &Slot| Linear::load(weights, &precise, slot);
        Ok(Self {
            qkv: Linear::load(weights, backend, &spec.qkv)?,
            gate: Linear::load(weights, backend, &spec.gate)?,
            scalars: spec.scalars.slots().into_iter().map(scalar).collect::<Result<_, _>>()?,
            output: Linear::load(weights, backend, &spec.output)?,
            shape: spec.shape,
            convolution_length: spec.convolution.state_length(),
            state_length: spec.state_length(),
            convolution: load_convolution(weights, &spec.convolution)?,
            decay: weights.vector(&spec.decay.name)?,
            step_bias: weights.vector(&spec.step_bias.name)?,
            norm: LoadedNorm::load(weights, &spec.norm)?,
        })
    }

    pub fn maps(&self) -> Vec<&Linear> {
        [&self.qkv, &self.gate].into_iter().chain(&self.scalars).chain([&self.output]).collect()
    }

    pub fn maps_mut(&mut self) -> Vec<&mut Linear> {
        [&mut self.qkv, &mut self.gate]
            .into_iter()
            .chain(&mut self.scalars)
            .chain([&mut self.output])
            .collect()
    }

    /// An empty state with memory of its own.
    pub fn empty_state(&self) -> RecurrentState {
        RecurrentState::in_pool(self.state_length, &kvant_kernels::PagePool::unlimited())
    }

    fn convolution(&self) -> Convolution<'_> {
        let DeltaShape { value_heads, value_size, .. } = self.shape;
        let channels = 2 * self.shape.keys() + value_heads * value_size;
        Convolution { weight: &self.convolution, channels, silu: true }
    }

    /// Computes the input of `output`, and advances the state of each sequence by its number of tokens.
    pub fn inner(
        &self,
        backend: &Backend,
        input: &[f32],
        sequences: Vec<(&mut RecurrentState, usize)>,
    ) -> Vec<f32> {
        let mut projected = self.project(backend, input);
        let sequences = sequences.into_iter().filter(|(_, tokens)| *tokens > 0);
        let (mut inputs, mut states): (Vec<_>, Vec<_>) = sequences
            .map(|(state, tokens)| {
                let (inputs, state) = state.advance(tokens).split_at_mut(self.convolution_length);
                ((inputs, tokens), (state, tokens))
            })
            .unzip();
        let mut convolved = buffers::take(projected.qkv.len());
        short_convolution(backend, &self.convolution(), &projected.qkv, &mut inputs, &mut convolved);
        let rule = self.rule_input(backend, &convolved, &projected);
        let mut results = buffers::take(rule.value.len());
        delta_rule(backend, &self.shape, &rule.borrowed(), &mut states, &mut results);
        let normed = self.norm.apply(backend, &results);
        ops::swiglu(backend, &mut projected.gate, &normed);
        [projected.qkv, convolved, results, normed].into_iter().for_each(buffers::give);
        projected.gate
    }

    fn project(&self, backend: &Backend, input: &[f32]) -> Projected {
        let maps: Vec<&Linear> = [&self.qkv, &self.gate].into_iter().chain(&self.scalars).collect();
        let tokens = input.len() / self.qkv.weight.columns();
        let mut results: Vec<Vec<f32>> =
            maps.iter().map(|map| buffers::take(tokens * map.weight.rows())).collect();
        apply_many(backend, &maps, input, results.iter_mut().map(Vec::as_mut_slice).collect());
        let mut results = results.into_iter();
        let mut next = || results.next().unwrap_or_default();
        let (qkv, gate, first, second) = (next(), next(), next(), next());
        let (strength, step) = if self.scalars.len() == 1 { self.split(&first) } else { (first, second) };
        Projected { qkv, gate, strength, step }
    }

    /// The number of value heads that share a key head.
    fn shared(&self) -> usize {
        self.shape.value_heads / self.shape.key_heads
    }

    /// Splits the result of the map of both strengths and steps.
    fn split(&self, both: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let groups = both.chunks_exact(2 * self.shared());
        let part = |second: bool| {
            let own = groups.clone().map(|group| group.split_at(self.shared()));
            own.flat_map(|(a, b)| if second { b } else { a }).copied().collect()
        };
        (part(false), part(true))
    }

    /// The inverse of [`LoadedDeltaNet::split`].
    fn join(&self, strength: &[f32], step: &[f32]) -> Vec<f32> {
        let groups = strength.chunks_exact(self.shared()).zip(step.chunks_exact(self.shared()));
        groups.flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
    }

    fn rule_input(&self, backend: &Backend, convolved: &[f32], projected: &Projected) -> RuleInput {
        let [mut query, mut key, value] = self.parts(convolved);
        let size = self.shape.key_size;
        unit_rows(backend, &mut query, size, self.query_factor());
        unit_rows(backend, &mut key, size, 1.0);
        let heads = self.shape.value_heads;
        let decay =
            |(i, step): (usize, &f32)| self.decay[i % heads] * softplus(step + self.step_bias[i % heads]);
        RuleInput {
            query,
            key,
            value,
            log_decay: projected.step.iter().enumerate().map(decay).collect(),
            strength: projected.strength.iter().map(|x| sigmoid(*x)).collect(),
        }
    }

    fn query_factor(&self) -> f32 {
        1.0 / (self.shape.key_size as f32).sqrt()
    }

    /// Splits rows of queries, keys and values.
    fn parts(&self, qkv: &[f32]) -> [Vec<f32>; 3] {
        let (keys, values) = (self.shape.keys(), self.shape.values());
        let rows = qkv.chunks_exact(2 * keys + values);
        [0..keys, keys..2 * keys, 2 * keys..2 * keys + values]
            .map(|part| rows.clone().flat_map(|row| &row[part.clone()]).copied().collect())
    }

    /// Computes the result for one whole sequence.
    pub fn result_alone(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
        let tokens = input.len() / self.qkv.weight.columns();
        let inner = self.inner(backend, input, vec![(&mut self.empty_state(), tokens)]);
        self.output.apply(backend, &self.output.input(&inner))
    }

    /// Adds the gradient at `input`, the rows of one whole sequence, to `input_gradient`. `gradient` is the gradient at
    /// the result.
    pub fn backward(
        &self,
        backend: &Backend,
        input: &[f32],
        gradient: &[f32],
        input_gradient: &mut [f32],
        sink: GradientSink,
    ) {
        let Projected { qkv, mut gate, strength, step } = self.project(backend, input);
        let tokens = gate.len() / self.shape.values();
        let convolution = self.convolution();
        let mut convolved = vec![0.0; qkv.len()];
        let mut before = vec![0.0; self.convolution_length];
        short_convolution(backend, &convolution, &qkv, &mut [(&mut before, tokens)], &mut convolved);
        let projected = Projected { qkv, gate: Vec::new(), strength, step };
        let rule = self.rule_input(backend, &convolved, &projected);
        let mut results = vec![0.0; rule.value.len()];
        let mut state = vec![0.0; self.shape.state_length()];
        delta_rule(backend, &self.shape, &rule.borrowed(), &mut [(&mut state, tokens)], &mut results);
        let mut normed = self.norm.apply(backend, &results);

        let mut at_inner = vec![0.0; normed.len()];
        self.output.backward(gradient, &mut at_inner, sink);
        gradient::swiglu(backend, &mut gate, &mut normed, &at_inner);
        let mut at_results = vec![0.0; results.len()];
        self.norm.add_gradient(backend, &results, &normed, &mut at_results);
        let mut at_rule = delta_rule_gradient(backend, &self.shape, &rule.borrowed(), &at_results);
        let [query, key, _] = self.parts(&convolved);
        let size = self.shape.key_size;
        unit_rows_gradient(&query, size, self.query_factor(), &mut at_rule.query);
        unit_rows_gradient(&key, size, 1.0, &mut at_rule.key);
        let (keys, values) = (self.shape.keys(), self.shape.values());
        let at_parts = [&at_rule.query[..], &at_rule.key, &at_rule.value];
        let at_convolved = concatenate_rows(at_parts, [keys, keys, values]);
        let at_qkv = short_convolution_gradient(backend, &convolution, &projected.qkv, &at_convolved);
        let heads = self.shape.value_heads;
        let at_step = |(i, step): (usize, &f32)| {
            at_rule.log_decay[i] * self.decay[i % heads] * sigmoid(step + self.step_bias[i % heads])
        };
        let at_step: Vec<f32> = projected.step.iter().enumerate().map(at_step).collect();
        let strengths = rule.strength.iter().zip(&at_rule.strength);
        let at_strength: Vec<f32> = strengths.map(|(s, gradient)| gradient * s * (1.0 - s)).collect();
        self.qkv.backward(&at_qkv, input_gradient, sink);
        self.gate.backward(&gate, input_gradient, sink);
        let of_scalars = match self.scalars.len() {
            1 => vec![self.join(&at_strength, &at_step)],
            _ => vec![at_strength, at_step],
        };
        for (map, gradient) in self.scalars.iter().zip(&of_scalars) {
            map.backward(gradient, input_gradient, sink);
        }
    }
}

/// Returns ln(1 + eˣ).
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
