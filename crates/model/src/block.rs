//! One block, run stage by stage.
//!
//! A stage is the maps that read one activation ([`crate::Stage`]): queries, keys and values; the attention's output;
//! gate and up; down. [`Block::advance`] runs one stage and returns the input of the next one, so that calibration
//! can read every input, solve the maps that read it, put the solved ones in place ([`Block::replace`]) and go on.
//! The forward pass is the same stages. Left out: the embedding and the head.

use crate::linear::{Linear, apply_all};
use crate::norm::LoadedNorm;
use crate::step::BlockStates;
use crate::{
    Activation, Attention, BlockSpec, Body, Error, FeedForward, OpCount, Positions, Projections, Slot,
    Sublayer, Weights, buffers,
};
use kvant_core::Tensor;
use kvant_kernels::{AttentionShape, Backend, KeyValues, KvFormat, Qkv, Ragged, attention, ops};

/// An attention that runs.
#[derive(Clone)]
pub(crate) struct LoadedAttention {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub query_norm: Option<LoadedNorm>,
    pub key_norm: Option<LoadedNorm>,
    /// Which of the network's rotary embeddings it uses ([`crate::Spec::ropes`]).
    pub rope: Option<usize>,
    pub shape: AttentionShape,
    pub output: Linear,
}

/// A feed-forward network that runs.
#[derive(Clone)]
pub(crate) struct LoadedFeedForward {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub activation: Activation,
    pub down: Linear,
}

/// A sublayer's body that runs.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a block has a few of them")]
pub(crate) enum LoadedBody {
    Attention(LoadedAttention),
    FeedForward(LoadedFeedForward),
}

/// A sublayer that runs.
#[derive(Clone)]
pub(crate) struct LoadedSublayer {
    pub before: Option<LoadedNorm>,
    pub body: LoadedBody,
}

/// A block that runs. Cloning shares the weights.
#[derive(Clone)]
pub struct Block {
    pub(crate) backend: Backend,
    pub(crate) sublayers: Vec<LoadedSublayer>,
    /// Sublayer and stage within its body, of each stage of the block.
    stages: Vec<(usize, usize)>,
}

impl LoadedAttention {
    fn load(weights: &Weights, backend: &Backend, spec: &Attention) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        // Values have few rows, and every later token reads them: a quarter of the rounding error comes from them, with a
        // thirtieth of the products.
        let precise = backend.clone().precise();
        let (query, key, value) = match &spec.projections {
            Projections::Separate { query, key, value } => {
                (linear(query)?, linear(key)?, Linear::load(weights, &precise, value)?)
            }
            Projections::Fused(slot) => {
                let (queries, keys) = (spec.heads * spec.head_size, spec.kv_heads * spec.head_size);
                // Read once: what is copied from the checkpoint is shared by the three parts.
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
            },
            output: linear(&spec.output)?,
        })
    }

    /// Queries, keys and values as the maps give them.
    pub fn projected(&self, backend: &Backend, input: &[f32]) -> Qkv {
        let [query, key, value] = apply_all(backend, [&self.query, &self.key, &self.value], input);
        Qkv { query, key, value }
    }

    /// Norms and rotates queries and keys.
    pub fn place(&self, backend: &Backend, read: &mut Qkv, positions: &Positions) {
        for (norm, x) in [(&self.query_norm, &mut read.query), (&self.key_norm, &mut read.key)] {
            if let Some(norm) = norm {
                let normed = norm.apply(backend, x);
                buffers::give(std::mem::replace(x, normed));
            }
        }
        self.rotate(backend, read, positions);
    }

    /// Rotates queries and keys by the angles of their positions.
    pub fn rotate(&self, backend: &Backend, read: &mut Qkv, positions: &Positions) {
        let AttentionShape { heads, kv_heads, head_size, .. } = self.shape;
        if let Some(rope) = self.rope {
            let rotation = positions.rotation(rope, head_size);
            ops::rope(backend, &mut read.query, heads, &rotation);
            ops::rope(backend, &mut read.key, kv_heads, &rotation);
        }
    }

    /// Keys and values of a sequence that begins.
    pub fn no_key_values(&self) -> KeyValues {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        KeyValues::new(KvFormat::F32, kv_heads, head_size).expect("numbers as they are fit any head")
    }
}

impl LoadedFeedForward {
    fn load(weights: &Weights, backend: &Backend, spec: &FeedForward) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        Ok(Self {
            gate: spec.gate.as_ref().map(linear).transpose()?,
            up: linear(&spec.up)?,
            activation: spec.activation,
            down: linear(&spec.down)?,
        })
    }

    /// What `down` reads.
    pub fn inner(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
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
}

/// `x` = activation(`x`), times `up` where there is one.
fn activate(backend: &Backend, activation: Activation, x: &mut [f32], up: Option<&[f32]>) {
    match (activation, up) {
        (Activation::Silu, Some(up)) => ops::swiglu(backend, x, up),
        (Activation::Silu, None) => ops::swiglu(backend, x, &vec![1.0; x.len()]),
        (Activation::GeluTanh, up) => {
            ops::gelu_tanh(backend, x);
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
            Self::FeedForward(f) => f.gate.iter().chain([&f.up, &f.down]).collect(),
        }
    }

    fn maps_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Attention(a) => vec![&mut a.query, &mut a.key, &mut a.value, &mut a.output],
            Self::FeedForward(f) => f.gate.iter_mut().chain([&mut f.up, &mut f.down]).collect(),
        }
    }
}

impl Block {
    /// Prepares block `index` for this processor.
    ///
    /// # Errors
    /// What [`Weights::tensor`] or a kernel says.
    pub fn load(weights: &Weights, backend: &Backend, index: usize) -> Result<Self, Error> {
        let spec: &BlockSpec = &weights.spec().blocks[index];
        let sublayer = |spec: &Sublayer| {
            let before = spec.before.as_ref().map(|norm| LoadedNorm::load(weights, norm)).transpose()?;
            let body = match &spec.body {
                Body::Attention(a) => LoadedBody::Attention(LoadedAttention::load(weights, backend, a)?),
                Body::FeedForward(f) => {
                    LoadedBody::FeedForward(LoadedFeedForward::load(weights, backend, f)?)
                }
            };
            Ok::<_, Error>(LoadedSublayer { before, body })
        };
        let stages = spec.sublayers.iter().enumerate();
        Ok(Self {
            backend: backend.clone(),
            sublayers: spec.sublayers.iter().map(sublayer).collect::<Result<_, _>>()?,
            stages: stages
                .flat_map(|(i, s)| (0..s.body.stages().len()).map(move |stage| (i, stage)))
                .collect(),
        })
    }

    /// How many stages it has: as many as its [`BlockSpec::stages`].
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// What one token multiplies and reads.
    pub fn op_count(&self) -> OpCount {
        let maps = self.sublayers.iter().flat_map(|sublayer| sublayer.body.maps());
        maps.map(|map| OpCount::of(&*map.weight)).fold(OpCount::default(), OpCount::plus)
    }

    /// Puts other values of the same shape in the place of the weight called `name`; a bias stays.
    ///
    /// # Errors
    /// What a kernel says. Panics where the block has no such weight.
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

    /// The first stage's input, from the residual stream (rows of the network's width).
    pub fn enter(&self, residual: &[f32]) -> Vec<f32> {
        self.enter_sublayer(0, residual)
    }

    /// What sublayer `index` reads; empty after the last.
    fn enter_sublayer(&self, index: usize, residual: &[f32]) -> Vec<f32> {
        match self.sublayers.get(index) {
            None => Vec::new(),
            Some(sublayer) => sublayer.enter(&self.backend, residual),
        }
    }

    /// Runs stage `stage` of [`Block::stages`] on its input and returns the input of the next one, empty after the last.
    /// Stages that write to the residual stream add to `residual`. An attention appends keys and values to its state of each
    /// sequence. The input's rows are those of the sequences' tokens, one sequence after the other.
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
                let mut read = a.projected(backend, input);
                a.place(backend, &mut read, positions);
                let mut attended = buffers::take(read.query.len());
                let before = &self.sublayers[..index];
                let own = before.iter().filter(|s| matches!(s.body, LoadedBody::Attention(_))).count();
                let mut layers: Vec<Ragged> = (states.iter_mut())
                    .map(|sequence| Ragged { states: &mut sequence.layers[own], tokens: sequence.tokens })
                    .collect();
                attention(backend, &a.shape, &read, &mut layers, &mut attended);
                [read.query, read.key, read.value].into_iter().for_each(buffers::give);
                attended
            }
            (LoadedBody::FeedForward(f), 0) => f.inner(backend, input),
            (LoadedBody::Attention(LoadedAttention { output: last, .. }), _)
            | (LoadedBody::FeedForward(LoadedFeedForward { down: last, .. }), _) => {
                last.add(backend, input, residual);
                self.enter_sublayer(index + 1, residual)
            }
        }
    }

    /// All stages; see [`Block::advance`].
    pub(crate) fn forward(&self, residual: &mut [f32], positions: &Positions, states: &mut [BlockStates]) {
        let mut input = self.enter(residual);
        for stage in 0..self.stages() {
            let next = self.advance(stage, &input, residual, positions, states);
            buffers::give(std::mem::replace(&mut input, next));
        }
    }

    /// All stages for a whole sequence at once, which nothing precedes and nothing follows: `residual` becomes the
    /// stream after the block.
    pub fn forward_alone(&self, residual: &mut [f32], positions: &Positions) {
        let tokens = positions.tokens();
        self.forward(residual, positions, &mut [BlockStates { layers: &mut self.no_states(), tokens }]);
    }

    /// [`Block::advance`] for a whole sequence at once, which nothing precedes and nothing follows.
    pub fn advance_alone(
        &self,
        stage: usize,
        input: &[f32],
        residual: &mut [f32],
        positions: &Positions,
    ) -> Vec<f32> {
        let tokens = positions.tokens();
        let states = &mut [BlockStates { layers: &mut self.no_states(), tokens }];
        self.advance(stage, input, residual, positions, states)
    }

    /// Of a sequence that begins.
    fn no_states(&self) -> Vec<KeyValues> {
        let attention = |sublayer: &LoadedSublayer| match &sublayer.body {
            LoadedBody::Attention(a) => Some(a.no_key_values()),
            LoadedBody::FeedForward(_) => None,
        };
        self.sublayers.iter().filter_map(attention).collect()
    }
}

impl LoadedSublayer {
    /// What the body reads.
    pub fn enter(&self, backend: &Backend, residual: &[f32]) -> Vec<f32> {
        match &self.before {
            Some(norm) => norm.apply(backend, residual),
            None => residual.to_vec(),
        }
    }
}
