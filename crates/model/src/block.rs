//! One transformer block, which runs stage by stage.
//!
//! A stage is the set of linear maps that read the same activation ([`crate::Stage`]): queries, keys and values; the
//! attention's output; gate and up; down. [`Block::advance`] runs one stage and returns the input of the next stage.
//! Calibration therefore can read each input, quantize the maps that read it, replace their weights
//! ([`Block::replace`]) and continue. The forward pass runs the same stages. Not here: the embedding and the head.

use crate::attention::{LoadedAttention, multiply_by_sigmoid};
use crate::delta_net::LoadedDeltaNet;
use crate::experts::{LoadedExperts, Routing};
use crate::feed_forward::LoadedFeedForward;
use crate::layer_embedding::LoadedLayerGate;
use crate::layer_state::LayerState;
use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::short_convolution::LoadedShortConvolution;
use crate::step::BlockStates;
use crate::stream::{StreamLayout, StreamStates};
use crate::{BlockSpec, Body, Error, OpCount, Positions, Sublayer, Weights, buffers};
use kvant_core::Tensor;
use kvant_kernels::{Backend, Ragged, attention, attention_of_held, ops};

/// A sublayer's body with loaded weights.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a few of them a block")]
pub(crate) enum LoadedBody {
    Attention(LoadedAttention),
    DeltaNet(LoadedDeltaNet),
    ShortConvolution(LoadedShortConvolution),
    FeedForward(LoadedFeedForward),
    Experts(LoadedExperts),
    LayerGate(LoadedLayerGate),
}

/// A sublayer with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedSublayer {
    pub before: Option<LoadedNorm>,
    pub body: LoadedBody,
    pub after: Option<LoadedNorm>,
    pub scale: f32,
    pub residual_norm: Option<LoadedNorm>,
    pub parallel: bool,
    pub sum_norm: Option<LoadedNorm>,
}

/// A block with loaded weights. A clone shares the weights.
#[derive(Clone)]
pub struct Block {
    pub(crate) backend: Backend,
    pub(crate) sublayers: Vec<LoadedSublayer>,
    /// Factor of the residual stream after the last sublayer.
    pub(crate) scale: f32,
    /// The layout of the stream that the block reads and writes.
    pub(crate) layout: StreamLayout,
    /// For each stage of the block: the index of its sublayer, and its index within the sublayer's body.
    stages: Vec<(usize, usize)>,
}

impl LoadedBody {
    fn maps(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(a) => a.maps(),
            Self::DeltaNet(d) => d.maps(),
            Self::ShortConvolution(c) => vec![&c.input, &c.output],
            Self::FeedForward(f) => f.maps(),
            Self::LayerGate(l) => vec![&l.gate, &l.output],
            Self::Experts(e) => {
                std::iter::once(&e.router).chain(e.experts.iter().flat_map(LoadedFeedForward::maps)).collect()
            }
        }
    }

    /// True if the body reads other positions than the current one.
    fn has_state(&self) -> bool {
        matches!(self, Self::Attention(_) | Self::DeltaNet(_) | Self::ShortConvolution(_))
    }

    fn maps_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Attention(a) => a.maps_mut(),
            Self::DeltaNet(d) => d.maps_mut(),
            Self::ShortConvolution(c) => vec![&mut c.input, &mut c.output],
            Self::FeedForward(f) => f.maps_mut(),
            Self::LayerGate(l) => vec![&mut l.gate, &mut l.output],
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
        let layout = StreamLayout::of(weights.spec());
        let sublayer = |spec: &Sublayer| {
            let norm =
                |norm: &Option<_>| norm.as_ref().map(|norm| LoadedNorm::load(weights, norm)).transpose();
            let body = match &spec.body {
                Body::Attention(a) => {
                    LoadedBody::Attention(LoadedAttention::load(weights, backend, a, &layout, index)?)
                }
                Body::LayerGate(l) => {
                    let part = layout.layer_embeddings[index];
                    LoadedBody::LayerGate(LoadedLayerGate::load(weights, backend, l, part)?)
                }
                Body::DeltaNet(d) => LoadedBody::DeltaNet(LoadedDeltaNet::load(weights, backend, d)?),
                Body::ShortConvolution(c) => {
                    LoadedBody::ShortConvolution(LoadedShortConvolution::load(weights, backend, c)?)
                }
                Body::FeedForward(f) => {
                    LoadedBody::FeedForward(LoadedFeedForward::load(weights, backend, f)?)
                }
                Body::Experts(e) => LoadedBody::Experts(LoadedExperts::load(weights, backend, e)?),
            };
            let (before, after) = (norm(&spec.before)?, norm(&spec.after)?);
            let (sum_norm, residual_norm) = (norm(&spec.sum_norm)?, norm(&spec.residual_norm)?);
            let Sublayer { scale, parallel, .. } = *spec;
            Ok::<_, Error>(LoadedSublayer { before, body, after, scale, residual_norm, parallel, sum_norm })
        };
        let stages = spec.sublayers.iter().enumerate();
        let scale = spec.scale.as_ref().map(|scale| weights.vector(&scale.name)).transpose()?;
        Ok(Self {
            backend: backend.clone(),
            sublayers: spec.sublayers.iter().map(sublayer).collect::<Result<_, _>>()?,
            layout,
            scale: scale.map_or(1.0, |scale| scale[0]),
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
            body => body.maps().into_iter().map(|map| OpCount::of(&*map.weight)).sum(),
        };
        self.sublayers.iter().map(|s| of_body(&s.body)).sum()
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

    /// Computes the first stage's input from the stream before the block, tokens × [`crate::Spec::stream_width`].
    pub fn enter(&self, stream: &[f32]) -> Vec<f32> {
        self.sublayer_input(0, stream)
    }

    /// Computes the input of sublayer `index`; empty after the last sublayer.
    fn sublayer_input(&self, index: usize, stream: &[f32]) -> Vec<f32> {
        match self.sublayers.get(index) {
            None => Vec::new(),
            Some(sublayer) => sublayer.first_input(&self.backend, self.layout.residual(stream)),
        }
    }

    /// Runs stage `stage` of [`Block::stages`] on its input and returns the input of the next stage; empty after the
    /// last stage. Stages that write to the residual stream add to that of `stream`. An attention appends keys and values
    /// to the KV cache of each sequence; if later blocks share them, it also writes them to `stream`. `input` has one row
    /// per token, one sequence after the other.
    pub(crate) fn advance(
        &self,
        stage: usize,
        input: &[f32],
        stream: &mut [f32],
        positions: &Positions,
        states: &mut [BlockStates],
    ) -> Vec<f32> {
        let (backend, (index, within)) = (&self.backend, self.stages[stage]);
        let tokens = self.layout.tokens(stream);
        match (&self.sublayers[index].body, within) {
            (LoadedBody::Attention(a), 0) => {
                let (mut qkv, gate) = a.project(backend, input);
                a.norm_and_rotate(backend, &mut qkv, positions);
                let mut attended = buffers::take(qkv.query.len());
                let own = self.index_of_state(index);
                let mut layers: Vec<Ragged> = (states.iter_mut())
                    .map(|s| Ragged { states: s.layers[own].key_values(), tokens: s.tokens })
                    .collect();
                if a.reads.is_some() {
                    attention_of_held(backend, &a.shape, &qkv.query, &layers, &mut attended);
                } else {
                    attention(backend, &a.shape, &qkv, &mut layers, &mut attended);
                }
                multiply_by_sigmoid(&mut attended, &gate);
                if let Some(StreamStates { keys, values }) = a.keeps {
                    stream[keys.range(tokens)].copy_from_slice(&qkv.key);
                    stream[values.range(tokens)].copy_from_slice(&qkv.value);
                }
                [qkv.query, qkv.key, qkv.value].into_iter().for_each(buffers::give);
                attended
            }
            (LoadedBody::DeltaNet(d), 0) => {
                let own = self.index_of_state(index);
                let sequences = states.iter_mut().map(|s| (s.layers[own].recurrent(), s.tokens));
                d.inner(backend, input, sequences.collect())
            }
            (LoadedBody::ShortConvolution(c), 0) => {
                let own = self.index_of_state(index);
                let sequences = states.iter_mut().map(|s| (s.layers[own].recurrent(), s.tokens));
                c.inner(backend, input, sequences.collect())
            }
            (LoadedBody::FeedForward(f), 0) => f.inner(backend, input),
            (LoadedBody::LayerGate(l), 0) => l.inner(backend, input, &stream[l.part.range(tokens)]),
            (LoadedBody::Experts(e), 0) if e.router_norm.is_none() => {
                e.inner(backend, input, &e.route(backend, input))
            }
            (LoadedBody::Experts(_), 0) => self.sublayers[index].input(backend, self.layout.residual(stream)),
            (LoadedBody::Experts(e), 1) if e.router_norm.is_some() => {
                e.inner(backend, input, &e.route(backend, &self.sublayer_input(index, stream)))
            }
            (body, _) => {
                let result = match body {
                    LoadedBody::Attention(LoadedAttention { output: last, .. })
                    | LoadedBody::DeltaNet(LoadedDeltaNet { output: last, .. })
                    | LoadedBody::ShortConvolution(LoadedShortConvolution { output: last, .. })
                    | LoadedBody::FeedForward(LoadedFeedForward { down: last, .. })
                    | LoadedBody::LayerGate(LoadedLayerGate { output: last, .. }) => {
                        last.apply(backend, &last.input(input))
                    }
                    LoadedBody::Experts(e) => {
                        // The residual stream is still the one that the experts were chosen from.
                        let routing = e.route(backend, &self.sublayer_input(index, stream));
                        e.result(backend, input, &routing)
                    }
                };
                let parallel = self.sublayers.get(index + 1).is_some_and(|next| next.parallel);
                let before_addition = parallel.then(|| self.sublayer_input(index + 1, stream));
                let (sublayer, held) = (&self.sublayers[index], self.layout.held_range(stream));
                if self.sublayers.get(index + 1).is_some_and(|next| next.sum_norm.is_some()) {
                    stream[held].copy_from_slice(&sublayer.normed(backend, result));
                    return self.sublayer_input(index + 1, stream);
                }
                if let Some(norm) = &sublayer.sum_norm {
                    let mut sum = sublayer.normed(backend, result);
                    ops::add(backend, &mut sum, &stream[held.clone()]);
                    stream[held].fill(0.0);
                    let residual = self.layout.residual_mut(stream);
                    sublayer.add_normed(backend, norm.apply(backend, &sum), residual);
                } else {
                    let normed = sublayer.normed(backend, result);
                    sublayer.add_normed(backend, normed, self.layout.residual_mut(stream));
                }
                let residual = self.layout.residual_mut(stream);
                if index + 1 == self.sublayers.len() && self.scale != 1.0 {
                    residual.iter_mut().for_each(|x| *x *= self.scale);
                }
                before_addition.unwrap_or_else(|| self.sublayer_input(index + 1, stream))
            }
        }
    }

    /// Returns the experts that each token uses in stage `stage`, or `None` if the stage is not one of experts. `input`
    /// is the input of the stage, and `stream` is the stream before it.
    pub fn routing(&self, stage: usize, input: &[f32], stream: &[f32]) -> Option<Routing> {
        let (index, within) = self.stages[stage];
        let LoadedBody::Experts(experts) = &self.sublayers[index].body else { return None };
        Some(match within {
            0 => experts.route(&self.backend, input),
            _ => experts.route(&self.backend, &self.sublayer_input(index, stream)),
        })
    }

    /// Returns true if stage `stage` changes the stream: the last stage of each sublayer, and the first stage of an
    /// attention whose keys and values later blocks read.
    pub fn changes_stream(&self, stage: usize) -> bool {
        let (index, within) = self.stages[stage];
        match (&self.sublayers[index].body, within) {
            (LoadedBody::Attention(a), 0) => a.keeps.is_some(),
            (LoadedBody::Experts(e), 1) => e.router_norm.is_none(),
            (_, within) => within > 0,
        }
    }

    /// Runs all stages; see [`Block::advance`].
    pub(crate) fn forward(&self, stream: &mut [f32], positions: &Positions, states: &mut [BlockStates]) {
        let mut input = self.enter(stream);
        for stage in 0..self.stages() {
            let next = self.advance(stage, &input, stream, positions, states);
            buffers::give(std::mem::replace(&mut input, next));
        }
    }

    /// Runs all stages for one whole sequence, without a KV cache from earlier tokens. `stream` becomes the stream after
    /// the block.
    pub fn forward_alone(&self, stream: &mut [f32], positions: &Positions) {
        let mut input = self.enter(stream);
        for stage in 0..self.stages() {
            let next = self.advance_alone(stage, &input, stream, positions);
            buffers::give(std::mem::replace(&mut input, next));
        }
    }

    /// Runs one stage as [`Block::advance`] does, for one whole sequence, without a KV cache from earlier tokens.
    pub fn advance_alone(
        &self,
        stage: usize,
        input: &[f32],
        stream: &mut [f32],
        positions: &Positions,
    ) -> Vec<f32> {
        let tokens = positions.tokens();
        let state = |sublayer: &LoadedSublayer| match &sublayer.body {
            LoadedBody::Attention(a) => Some(LayerState::KeyValues(a.key_values_alone(stream, tokens))),
            LoadedBody::DeltaNet(d) => Some(LayerState::Recurrent(d.empty_state())),
            LoadedBody::ShortConvolution(c) => Some(LayerState::Recurrent(c.empty_state())),
            LoadedBody::FeedForward(_) | LoadedBody::Experts(_) | LoadedBody::LayerGate(_) => None,
        };
        let mut layers: Vec<LayerState> = match self.stages[stage] {
            // Only the first stage of a sublayer reads states.
            (_, 0) => self.sublayers.iter().filter_map(state).collect(),
            _ => Vec::new(),
        };
        self.advance(stage, input, stream, positions, &mut [BlockStates { layers: &mut layers, tokens }])
    }

    /// The index of the state of sublayer `index` among the states of the block.
    fn index_of_state(&self, index: usize) -> usize {
        self.sublayers[..index].iter().filter(|s| s.body.has_state()).count()
    }
}

impl LoadedSublayer {
    /// Returns the body's result after its norm.
    pub fn normed(&self, backend: &Backend, mut result: Vec<f32>) -> Vec<f32> {
        if let Some(norm) = &self.after {
            let normed = norm.apply(backend, &result);
            buffers::give(std::mem::replace(&mut result, normed));
        }
        result
    }

    /// Adds a result to the residual stream after its norms, with the factor, and normalizes the sum.
    pub fn add_normed(&self, backend: &Backend, result: Vec<f32>, residual: &mut [f32]) {
        self.add_without_norm(backend, result, residual);
        if let Some(norm) = &self.residual_norm {
            let normed = norm.apply(backend, residual);
            residual.copy_from_slice(&normed);
            buffers::give(normed);
        }
    }

    /// Adds a result to the residual stream after its norms, with the factor.
    pub fn add_without_norm(&self, backend: &Backend, result: Vec<f32>, residual: &mut [f32]) {
        if self.scale == 1.0 {
            ops::add(backend, residual, &result);
        } else {
            ops::add_scaled(backend, residual, self.scale, &result);
        }
        buffers::give(result);
    }

    /// Computes the input of the first stage from the residual stream: that of a router with its own norm, or that of the
    /// body.
    fn first_input(&self, backend: &Backend, residual: &[f32]) -> Vec<f32> {
        match &self.body {
            LoadedBody::Experts(LoadedExperts { router_norm: Some(norm), .. }) => {
                norm.apply(backend, residual)
            }
            _ => self.input(backend, residual),
        }
    }

    /// Computes the input of the body from the residual stream.
    pub fn input(&self, backend: &Backend, residual: &[f32]) -> Vec<f32> {
        match &self.before {
            Some(norm) => norm.apply(backend, residual),
            None => residual.to_vec(),
        }
    }
}
