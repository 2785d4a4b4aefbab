//! One transformer block, which runs stage by stage.
//!
//! A stage is the set of linear maps that read the same activation ([`crate::Stage`]): queries, keys and values; the
//! attention's output; gate and up; down. [`Block::advance`] runs one stage and returns the input of the next stage.
//! Calibration therefore can read each input, quantize the maps that read it, replace their weights
//! ([`Block::replace`]) and continue. The forward pass runs the same stages. Not here: the embedding and the head.

use crate::experts::{LoadedExperts, Routing};
use crate::linear::{Linear, apply_all, apply_many};
use crate::norm::LoadedNorm;
use crate::step::BlockStates;
use crate::{
    Activation, Attention, BlockSpec, Body, Error, Expansion, FeedForward, OpCount, Positions, Projections,
    Slot, Span, Sublayer, Weights, buffers,
};
use kvant_core::Tensor;
use kvant_kernels::{AttentionShape, Backend, KeyValues, KvFormat, Qkv, Ragged, attention, ops};

/// An attention with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedAttention {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub query_norm: Option<LoadedNorm>,
    pub key_norm: Option<LoadedNorm>,
    /// Index of its rotary embedding in [`crate::Spec::ropes`].
    pub rope: Option<usize>,
    pub shape: AttentionShape,
    pub output: Linear,
}

/// A feed-forward network with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedFeedForward {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub activation: Activation,
    /// The map of the factor of the input of `down`, before the sigmoid function.
    pub factor: Option<Linear>,
    pub down: Linear,
}

/// A sublayer's body with loaded weights.
#[derive(Clone)]
pub(crate) enum LoadedBody {
    Attention(LoadedAttention),
    FeedForward(LoadedFeedForward),
    Experts(LoadedExperts),
}

/// A sublayer with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedSublayer {
    pub before: Option<LoadedNorm>,
    pub body: LoadedBody,
    pub after: Option<LoadedNorm>,
    pub scale: f32,
    pub parallel: bool,
}

/// A block with loaded weights. A clone shares the weights.
#[derive(Clone)]
pub struct Block {
    pub(crate) backend: Backend,
    pub(crate) sublayers: Vec<LoadedSublayer>,
    /// For each stage of the block: the index of its sublayer, and its index within the sublayer's body.
    stages: Vec<(usize, usize)>,
}

impl LoadedAttention {
    fn load(weights: &Weights, backend: &Backend, spec: &Attention) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        // The value map has few rows, and every later token reads its output. It causes a large part of the rounding
        // error with a small part of the multiply-adds. Higher precision is therefore cheap here.
        let precise = backend.clone().precise();
        let (query, key, value) = match &spec.projections {
            Projections::Separate { query, key, value } => {
                (linear(query)?, linear(key)?, Linear::load(weights, &precise, value)?)
            }
            Projections::Fused(slot) => {
                let (queries, keys) = (spec.heads * spec.head_size, spec.kv_heads * spec.head_size);
                // One read: if the checkpoint has to copy the tensor, the three parts share the copy.
                let tensor = weights.tensor(&slot.weight())?;
                let part = |backend, start, rows| {
                    Linear::of(weights, backend, slot, &tensor, Some(start..start + rows))
                };
                (
                    part(backend, 0, queries)?,
                    part(backend, queries, keys)?,
                    part(&precise, queries + keys, keys)?,
                )
            }
        };
        let norm = |norm: &Option<_>| norm.as_ref().map(|norm| LoadedNorm::load(weights, norm)).transpose();
        let ropes = weights.spec().ropes();
        Ok(Self {
            query,
            key,
            value,
            query_norm: norm(&spec.query_norm)?,
            key_norm: norm(&spec.key_norm)?,
            rope: spec.rope.as_ref().and_then(|rope| ropes.iter().position(|other| *other == rope)),
            shape: AttentionShape {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_size: spec.head_size,
                scale: spec.scale,
                window: match spec.span {
                    Span::Full => None,
                    Span::Window(positions) => Some(positions),
                },
                softcap: spec.softcap,
                sinks: spec.sinks.as_ref().map(|sinks| weights.vector(&sinks.name)).transpose()?,
            },
            output: linear(&spec.output)?,
        })
    }

    /// Computes queries, keys and values, before norms and rotation.
    pub fn project(&self, backend: &Backend, input: &[f32]) -> Qkv {
        let [query, key, value] = apply_all(backend, [&self.query, &self.key, &self.value], input);
        Qkv { query, key, value }
    }

    /// Normalizes and rotates queries and keys in place.
    pub fn norm_and_rotate(&self, backend: &Backend, qkv: &mut Qkv, positions: &Positions) {
        for (norm, x) in [(&self.query_norm, &mut qkv.query), (&self.key_norm, &mut qkv.key)] {
            if let Some(norm) = norm {
                let normed = norm.apply(backend, x);
                buffers::give(std::mem::replace(x, normed));
            }
        }
        self.rotate(backend, qkv, positions);
    }

    /// Rotates queries and keys in place by the angles of their positions.
    pub fn rotate(&self, backend: &Backend, qkv: &mut Qkv, positions: &Positions) {
        let AttentionShape { heads, kv_heads, head_size, .. } = self.shape;
        if let Some(rope) = self.rope {
            let rotation = positions.rotation(rope, head_size);
            ops::rope(backend, &mut qkv.query, heads, &rotation);
            ops::rope(backend, &mut qkv.key, kv_heads, &rotation);
        }
    }

    /// An empty KV cache in `f32`.
    pub fn empty_key_values(&self) -> KeyValues {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        KeyValues::new(KvFormat::F32, kv_heads, head_size).expect("numbers as they are fit any head")
    }
}

impl LoadedFeedForward {
    fn load(weights: &Weights, backend: &Backend, spec: &FeedForward) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        let (gate, up) = match &spec.expansion {
            Expansion::Plain(up) => (None, linear(up)?),
            Expansion::Gated { gate, up } => (Some(linear(gate)?), linear(up)?),
            Expansion::FusedGated(slot) => {
                let (tensor, half) = (weights.tensor(&slot.weight())?, slot.rows / 2);
                let part = |rows| Linear::of(weights, backend, slot, &tensor, Some(rows));
                (Some(part(0..half)?), part(half..slot.rows)?)
            }
        };
        let factor = spec.factor.as_ref().map(linear).transpose()?;
        Ok(Self { gate, up, activation: spec.activation, factor, down: linear(&spec.down)? })
    }

    /// Loads `count` experts, whose maps are stored one after the other.
    pub fn load_experts(
        weights: &Weights,
        backend: &Backend,
        spec: &FeedForward,
        count: usize,
    ) -> Result<Vec<Self>, Error> {
        let maps = |slot: &Slot| -> Result<Vec<Linear>, Error> {
            let tensor = weights.tensor(&slot.weight())?;
            let rows = |expert: usize| expert * slot.rows..(expert + 1) * slot.rows;
            (0..count).map(|e| Linear::of(weights, backend, slot, &tensor, Some(rows(e)))).collect()
        };
        let (gates, ups) = match &spec.expansion {
            Expansion::Gated { gate, up } => (maps(gate)?.into_iter().map(Some).collect(), maps(up)?),
            Expansion::Plain(up) => (vec![None; count], maps(up)?),
            Expansion::FusedGated(slot) => {
                let tensor = weights.tensor(&slot.weight())?;
                let half = slot.rows / 2;
                let part = |expert: usize, half_index: usize| {
                    let start = expert * slot.rows + half_index * half;
                    Linear::of(weights, backend, slot, &tensor, Some(start..start + half))
                };
                let of_half = |index| (0..count).map(|e| part(e, index)).collect::<Result<Vec<_>, _>>();
                (of_half(0)?.into_iter().map(Some).collect(), of_half(1)?)
            }
        };
        let expert = |((gate, up), down)| Self { gate, up, activation: spec.activation, factor: None, down };
        let gates: Vec<Option<Linear>> = gates;
        Ok(gates.into_iter().zip(ups).zip(maps(&spec.down)?).map(expert).collect())
    }

    pub fn maps(&self) -> Vec<&Linear> {
        self.gate.iter().chain([&self.up]).chain(&self.factor).chain([&self.down]).collect()
    }

    fn maps_mut(&mut self) -> Vec<&mut Linear> {
        self.gate.iter_mut().chain([&mut self.up]).chain(&mut self.factor).chain([&mut self.down]).collect()
    }

    /// Computes the input of `down`.
    pub fn inner(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
        let mut inner = self.unscaled_inner(backend, input);
        if let Some(factors) = self.factors(backend, input) {
            scale_rows(&mut inner, &factors);
        }
        inner
    }

    /// Computes the input of `down` without the factor.
    pub fn unscaled_inner(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
        let Some(gate) = &self.gate else {
            let mut up = self.up.apply(backend, &self.up.input(input));
            activate(backend, self.activation, &mut up, None);
            return up;
        };
        let [mut gate, up] = apply_all(backend, [gate, &self.up], input);
        activate(backend, self.activation, &mut gate, Some(&up));
        buffers::give(up);
        gate
    }

    /// Computes the factor of each row, if there is one.
    pub fn factors(&self, backend: &Backend, input: &[f32]) -> Option<Vec<f32>> {
        let factor = self.factor.as_ref()?;
        let mut factors = factor.apply(backend, &factor.input(input));
        factors.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
        Some(factors)
    }

    /// Computes the inputs of `down` of several networks of one size that read the same row, one after the other.
    pub fn inner_of_all(backend: &Backend, networks: &[&Self], input: &[f32], out: &mut [f32]) {
        let length = out.len() / networks.len();
        let gates: Vec<&Linear> = networks.iter().filter_map(|network| network.gate.as_ref()).collect();
        let ups: Vec<&Linear> = networks.iter().map(|network| &network.up).collect();
        let mut up = buffers::take(out.len());
        let gated = !gates.is_empty();
        {
            let first = if gated { &mut *out } else { &mut [][..] };
            let results: Vec<&mut [f32]> =
                first.chunks_exact_mut(length).chain(up.chunks_exact_mut(length)).collect();
            apply_many(backend, &[gates, ups].concat(), input, results);
        }
        if gated {
            activate(backend, networks[0].activation, out, Some(&up));
        } else {
            out.copy_from_slice(&up);
            activate(backend, networks[0].activation, out, None);
        }
        buffers::give(up);
    }
}

/// Multiplies each row of `x` by its factor.
pub(crate) fn scale_rows(x: &mut [f32], factors: &[f32]) {
    let columns = x.len() / factors.len().max(1);
    for (row, factor) in x.chunks_exact_mut(columns.max(1)).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Computes `x` = activation(`x`) · `up`, without the factor if `up` is `None`.
pub(crate) fn activate(backend: &Backend, activation: Activation, x: &mut [f32], up: Option<&[f32]>) {
    match (activation, up) {
        (Activation::Silu, Some(up)) => ops::swiglu(backend, x, up),
        (Activation::Silu, None) => ops::swiglu(backend, x, &vec![1.0; x.len()]),
        (Activation::Gelu | Activation::GeluTanh, up) => {
            if activation == Activation::Gelu {
                ops::gelu(backend, x)
            } else {
                ops::gelu_tanh(backend, x)
            }
            if let Some(up) = up {
                ops::multiply(backend, x, up);
            }
        }
    }
}

impl LoadedBody {
    fn maps(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(a) => vec![&a.query, &a.key, &a.value, &a.output],
            Self::FeedForward(f) => f.maps(),
            Self::Experts(e) => {
                std::iter::once(&e.router).chain(e.experts.iter().flat_map(LoadedFeedForward::maps)).collect()
            }
        }
    }

    fn maps_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Attention(a) => vec![&mut a.query, &mut a.key, &mut a.value, &mut a.output],
            Self::FeedForward(f) => f.maps_mut(),
            Self::Experts(e) => {
                let experts = e.experts.iter_mut().flat_map(LoadedFeedForward::maps_mut);
                std::iter::once(&mut e.router).chain(experts).collect()
            }
        }
    }
}

impl Block {
    /// Loads block `index` and prepares it for this processor.
    ///
    /// # Errors
    /// Errors of [`Weights::tensor`] or of a kernel.
    pub fn load(weights: &Weights, backend: &Backend, index: usize) -> Result<Self, Error> {
        let spec: &BlockSpec = &weights.spec().blocks[index];
        let sublayer = |spec: &Sublayer| {
            let norm =
                |norm: &Option<_>| norm.as_ref().map(|norm| LoadedNorm::load(weights, norm)).transpose();
            let body = match &spec.body {
                Body::Attention(a) => LoadedBody::Attention(LoadedAttention::load(weights, backend, a)?),
                Body::FeedForward(f) => {
                    LoadedBody::FeedForward(LoadedFeedForward::load(weights, backend, f)?)
                }
                Body::Experts(e) => LoadedBody::Experts(LoadedExperts::load(weights, backend, e)?),
            };
            let (before, after) = (norm(&spec.before)?, norm(&spec.after)?);
            let Sublayer { scale, parallel, .. } = *spec;
            Ok::<_, Error>(LoadedSublayer { before, body, after, scale, parallel })
        };
        let stages = spec.sublayers.iter().enumerate();
        Ok(Self {
            backend: backend.clone(),
            sublayers: spec.sublayers.iter().map(sublayer).collect::<Result<_, _>>()?,
            stages: stages.flat_map(|(i, s)| (0..s.stages().len()).map(move |stage| (i, stage))).collect(),
        })
    }

    /// The number of stages, equal to that of [`BlockSpec::stages`].
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Multiply-adds and weight bytes of one token.
    pub fn op_count(&self) -> OpCount {
        let of_body = |body: &LoadedBody| match body {
            LoadedBody::Experts(experts) => experts.op_count(),
            body => {
                let counts = body.maps().into_iter().map(|map| OpCount::of(&*map.weight));
                counts.fold(OpCount::default(), OpCount::plus)
            }
        };
        self.sublayers.iter().map(|s| of_body(&s.body)).fold(OpCount::default(), OpCount::plus)
    }

    /// Replaces the weight `name` with a tensor of the same shape. The bias does not change.
    ///
    /// # Errors
    /// Errors of a kernel. Panics if the block has no such weight.
    pub fn replace(&mut self, name: &str, tensor: &Tensor, weights: &Weights) -> Result<(), Error> {
        let maps = self.sublayers.iter_mut().flat_map(|sublayer| sublayer.body.maps_mut());
        let mut found = false;
        for map in maps.filter(|map| map.name == name) {
            map.replace(&self.backend, tensor, weights)?;
            found = true;
        }
        assert!(found, "{name} is no weight of this block");
        Ok(())
    }

    /// Computes the first stage's input from the residual stream (tokens × hidden).
    pub fn enter(&self, residual: &[f32]) -> Vec<f32> {
        self.sublayer_input(0, residual)
    }

    /// Computes the input of sublayer `index`; empty after the last sublayer.
    fn sublayer_input(&self, index: usize, residual: &[f32]) -> Vec<f32> {
        match self.sublayers.get(index) {
            None => Vec::new(),
            Some(sublayer) => sublayer.input(&self.backend, residual),
        }
    }

    /// Runs stage `stage` of [`Block::stages`] on its input and returns the input of the next stage; empty after the
    /// last stage. Stages that write to the residual stream add to `residual`. An attention appends keys and values to
    /// the KV cache of each sequence. `input` has one row per token, one sequence after the other.
    pub(crate) fn advance(
        &self,
        stage: usize,
        input: &[f32],
        residual: &mut [f32],
        positions: &Positions,
        states: &mut [BlockStates],
    ) -> Vec<f32> {
        let (backend, (index, within)) = (&self.backend, self.stages[stage]);
        match (&self.sublayers[index].body, within) {
            (LoadedBody::Attention(a), 0) => {
                let mut qkv = a.project(backend, input);
                a.norm_and_rotate(backend, &mut qkv, positions);
                let mut attended = buffers::take(qkv.query.len());
                let before = &self.sublayers[..index];
                let own = before.iter().filter(|s| matches!(s.body, LoadedBody::Attention(_))).count();
                let mut layers: Vec<Ragged> = (states.iter_mut())
                    .map(|sequence| Ragged { states: &mut sequence.layers[own], tokens: sequence.tokens })
                    .collect();
                attention(backend, &a.shape, &qkv, &mut layers, &mut attended);
                [qkv.query, qkv.key, qkv.value].into_iter().for_each(buffers::give);
                attended
            }
            (LoadedBody::FeedForward(f), 0) => f.inner(backend, input),
            (LoadedBody::Experts(e), 0) => e.inner(backend, input, &e.route(backend, input)),
            (body, _) => {
                let result = match body {
                    LoadedBody::Attention(LoadedAttention { output: last, .. })
                    | LoadedBody::FeedForward(LoadedFeedForward { down: last, .. }) => {
                        last.apply(backend, &last.input(input))
                    }
                    LoadedBody::Experts(e) => {
                        // The residual stream is still the one that the experts were chosen from.
                        let routing = e.route(backend, &self.sublayer_input(index, residual));
                        e.result(backend, input, &routing)
                    }
                };
                let parallel = self.sublayers.get(index + 1).is_some_and(|next| next.parallel);
                let before_addition = parallel.then(|| self.sublayer_input(index + 1, residual));
                self.sublayers[index].add(backend, result, residual);
                before_addition.unwrap_or_else(|| self.sublayer_input(index + 1, residual))
            }
        }
    }

    /// Returns the experts that each token uses in stage `stage`, or `None` if the stage is not one of experts. `input`
    /// is the input of the stage, and `residual` is the residual stream before it.
    pub fn routing(&self, stage: usize, input: &[f32], residual: &[f32]) -> Option<Routing> {
        let (index, within) = self.stages[stage];
        let LoadedBody::Experts(experts) = &self.sublayers[index].body else { return None };
        Some(match within {
            0 => experts.route(&self.backend, input),
            _ => experts.route(&self.backend, &self.sublayer_input(index, residual)),
        })
    }

    /// Runs all stages; see [`Block::advance`].
    pub(crate) fn forward(&self, residual: &mut [f32], positions: &Positions, states: &mut [BlockStates]) {
        let mut input = self.enter(residual);
        for stage in 0..self.stages() {
            let next = self.advance(stage, &input, residual, positions, states);
            buffers::give(std::mem::replace(&mut input, next));
        }
    }

    /// Runs all stages for one whole sequence, without a KV cache from earlier tokens. `residual` becomes the residual
    /// stream after the block.
    pub fn forward_alone(&self, residual: &mut [f32], positions: &Positions) {
        let tokens = positions.tokens();
        self.forward(residual, positions, &mut [BlockStates { layers: &mut self.empty_states(), tokens }]);
    }

    /// Runs one stage as [`Block::advance`] does, for one whole sequence, without a KV cache from earlier tokens.
    pub fn advance_alone(
        &self,
        stage: usize,
        input: &[f32],
        residual: &mut [f32],
        positions: &Positions,
    ) -> Vec<f32> {
        let tokens = positions.tokens();
        let states = &mut [BlockStates { layers: &mut self.empty_states(), tokens }];
        self.advance(stage, input, residual, positions, states)
    }

    /// Empty KV caches, one for each attention of the block.
    fn empty_states(&self) -> Vec<KeyValues> {
        let attention = |sublayer: &LoadedSublayer| match &sublayer.body {
            LoadedBody::Attention(a) => Some(a.empty_key_values()),
            LoadedBody::FeedForward(_) | LoadedBody::Experts(_) => None,
        };
        self.sublayers.iter().filter_map(attention).collect()
    }
}

impl LoadedSublayer {
    /// Adds the body's result to the residual stream, after the norm and the factor.
    pub fn add(&self, backend: &Backend, mut result: Vec<f32>, residual: &mut [f32]) {
        if let Some(norm) = &self.after {
            let normed = norm.apply(backend, &result);
            buffers::give(std::mem::replace(&mut result, normed));
        }
        if self.scale == 1.0 {
            ops::add(backend, residual, &result);
        } else {
            ops::add_scaled(backend, residual, self.scale, &result);
        }
        buffers::give(result);
    }

    /// Computes the input of the body from the residual stream.
    pub fn input(&self, backend: &Backend, residual: &[f32]) -> Vec<f32> {
        match &self.before {
            Some(norm) => norm.apply(backend, residual),
            None => residual.to_vec(),
        }
    }
}
