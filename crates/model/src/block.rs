//! One transformer block, which runs stage by stage.
//!
//! A stage is the set of linear maps that read the same activation ([`crate::Stage`]): queries, keys and values; the
//! attention's output; gate and up; down. [`Block::advance`] runs one stage and returns the input of the next stage.
//! Calibration therefore can read each input, quantize the maps that read it, replace their weights
//! ([`Block::replace`]) and continue. The forward pass runs the same stages. Not here: the embedding and the head.

use crate::attention::LoadedAttention;
use crate::experts::{LoadedExperts, Routing};
use crate::feed_forward::LoadedFeedForward;
use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::step::BlockStates;
use crate::{BlockSpec, Body, Error, OpCount, Positions, Sublayer, Weights, buffers};
use kvant_core::Tensor;
use kvant_kernels::{Backend, KeyValues, Ragged, attention, ops};

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
    pub of_sum: Option<LoadedNorm>,
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
            let (before, after, of_sum) = (norm(&spec.before)?, norm(&spec.after)?, norm(&spec.of_sum)?);
            let Sublayer { scale, parallel, .. } = *spec;
            Ok::<_, Error>(LoadedSublayer { before, body, after, scale, of_sum, parallel })
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
    /// Adds the body's result to the residual stream, after the norm and the factor, and normalizes the sum.
    pub fn add(&self, backend: &Backend, result: Vec<f32>, residual: &mut [f32]) {
        self.add_without_norm(backend, result, residual);
        if let Some(norm) = &self.of_sum {
            let normed = norm.apply(backend, residual);
            residual.copy_from_slice(&normed);
            buffers::give(normed);
        }
    }

    /// Adds the body's result to the residual stream, after the norm and the factor.
    pub fn add_without_norm(&self, backend: &Backend, mut result: Vec<f32>, residual: &mut [f32]) {
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
