//! One block, run stage by stage.
//!
//! A stage is the maps that read one activation ([`crate::Stage`]): queries, keys and values; the attention's output;
//! gate and up; down. [`Block::advance`] runs one stage and returns the next one's input, so that whoever calibrates
//! can look at every input, solve the maps that read it, put the solved ones in place ([`Block::replace`]) and go on.
//! The forward pass is the same four steps. Left out: what comes before the first block and after the last.

use crate::{Error, Slot, Spec, Weights, Work, buffers};
use kvant_core::Tensor;
use kvant_kernels::{Attended, AttentionShape, Backend, Input, KeyValues, KvFormat, Matrix, attention, ops};
use std::sync::Arc;

/// Stages of a block.
pub const STAGES: usize = 4;

/// A linear map ready to multiply.
#[derive(Clone)]
pub(crate) struct Linear {
    pub(crate) name: String,
    pub(crate) weight: Arc<dyn Matrix>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub fn load(weights: &Weights, backend: &Backend, slot: &Slot) -> Result<Self, Error> {
        let name = slot.weight();
        let weight = prepare(backend, &weights.tensor(&name)?, weights, &name)?;
        let bias = slot.bias().map(|name| weights.vector(&name)).transpose()?;
        Ok(Self { name, weight, bias })
    }

    pub fn without_bias(weight: Arc<dyn Matrix>) -> Self {
        Self { name: String::new(), weight, bias: None }
    }

    pub fn weight(&self) -> &dyn Matrix {
        &*self.weight
    }

    pub fn into_weight(self) -> Arc<dyn Matrix> {
        self.weight
    }

    /// Activations that this map reads, n × columns.
    pub fn input<'a>(&self, x: &'a [f32]) -> Input<'a> {
        Input::new(x, self.weight.columns())
    }

    /// `x` is n × columns; the result n × rows.
    pub fn apply(&self, backend: &Backend, x: &Input) -> Vec<f32> {
        let mut y = buffers::take(x.rows() * self.weight.rows());
        self.apply_into(backend, x, &mut y);
        y
    }

    /// The same into `y`.
    pub fn apply_into(&self, backend: &Backend, x: &Input, y: &mut [f32]) {
        self.weight.apply(x, y);
        self.add_bias(backend, y);
    }

    fn add_bias(&self, backend: &Backend, y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            ops::add_bias(backend, y, bias);
        }
    }

    /// The same added to `residual`.
    pub fn add(&self, backend: &Backend, x: &[f32], residual: &mut [f32]) {
        let y = self.apply(backend, &self.input(x));
        ops::add(backend, residual, &y);
        buffers::give(y);
    }
}

/// Results of several maps that read the same activations.
pub(crate) fn apply_all<const N: usize>(backend: &Backend, maps: [&Linear; N], x: &[f32]) -> [Vec<f32>; N] {
    let input = maps[0].input(x);
    let mut results = maps.map(|map| buffers::take(input.rows() * map.weight.rows()));
    kvant_kernels::apply_all(maps.map(|map| &*map.weight), &input, results.each_mut().map(Vec::as_mut_slice));
    maps.iter().zip(&mut results).for_each(|(map, y)| map.add_bias(backend, y));
    results
}

fn prepare(
    backend: &Backend,
    tensor: &Tensor,
    weights: &Weights,
    name: &str,
) -> Result<Arc<dyn Matrix>, Error> {
    let matrix = backend.load(tensor).map_err(|source| Error::Kernel {
        path: weights.path().to_owned(),
        tensor: name.to_owned(),
        source,
    })?;
    Ok(Arc::from(matrix))
}

/// Where the tokens of a piece stand: the angles of their rotary embedding.
pub struct Positions {
    rotated: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Positions {
    /// Positions `past..past + count`.
    pub fn new(spec: &Spec, past: usize, count: usize) -> Self {
        let (frequencies, factor) = spec.rope.frequencies();
        Self::turned(spec.rope.rotated, &frequencies, factor, past..past + count)
    }

    /// The same for any positions, with frequencies at hand, for whoever asks for every token.
    pub(crate) fn turned(
        rotated: usize,
        frequencies: &[f32],
        factor: f32,
        positions: impl Iterator<Item = usize>,
    ) -> Self {
        let angles = positions.flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let (cosines, sines) = angles.map(|a| (a.cos() * factor, a.sin() * factor)).unzip();
        Self { rotated, cosines, sines }
    }

    /// Angles that turn back what these turn, for gradients. A factor of the rotation stays one.
    pub(crate) fn turned_back(&self) -> Self {
        let sines = self.sines.iter().map(|x| -x).collect();
        Self { rotated: self.rotated, cosines: self.cosines.clone(), sines }
    }
}

/// A block that runs. Cloning shares the weights.
#[derive(Clone)]
pub struct Block {
    pub(crate) backend: Backend,
    pub(crate) norm_epsilon: f32,
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) shape: AttentionShape,
}

impl Block {
    /// Prepares block `index` for this processor.
    ///
    /// # Errors
    /// What [`Weights::tensor`] or a kernel says.
    pub fn load(weights: &Weights, backend: &Backend, index: usize) -> Result<Self, Error> {
        let spec = &weights.spec().blocks[index];
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        let (a, f) = (&spec.attention, &spec.feed_forward);
        Ok(Self {
            backend: backend.clone(),
            norm_epsilon: weights.spec().norm_epsilon,
            attention_norm: weights.vector(&spec.attention_norm.name)?,
            query: linear(&a.query)?,
            key: linear(&a.key)?,
            // Few rows, and every later token reads them: of what rounding loses, values cause a quarter, with a thirtieth
            // of the products.
            value: Linear::load(weights, &backend.clone().precise(), &a.value)?,
            output: linear(&a.output)?,
            feed_forward_norm: weights.vector(&spec.feed_forward_norm.name)?,
            gate: linear(&f.gate)?,
            up: linear(&f.up)?,
            down: linear(&f.down)?,
            shape: AttentionShape {
                heads: a.heads,
                kv_heads: a.kv_heads,
                head_size: a.head_size,
                scale: 1.0 / (a.head_size as f32).sqrt(),
            },
        })
    }

    fn maps(&self) -> [&Linear; 7] {
        [&self.query, &self.key, &self.value, &self.output, &self.gate, &self.up, &self.down]
    }

    /// What one token multiplies and reads.
    pub fn work(&self) -> Work {
        self.maps().iter().map(|l| Work::of(&*l.weight)).fold(Work::default(), Work::plus)
    }

    /// Puts other values of the same shape in the place of the weight called `name`; a bias stays.
    ///
    /// # Errors
    /// What a kernel says. Panics where the block has no such weight.
    pub fn replace(&mut self, name: &str, tensor: &Tensor, weights: &Weights) -> Result<(), Error> {
        let weight = prepare(&self.backend, tensor, weights, name)?;
        let maps = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.output,
            &mut self.gate,
            &mut self.up,
            &mut self.down,
        ];
        let map = maps.into_iter().find(|map| map.name == name).expect("a weight of this block");
        map.weight = weight;
        Ok(())
    }

    /// The first stage's input, from the residual stream (rows of the network's width).
    pub fn enter(&self, residual: &[f32]) -> Vec<f32> {
        self.normed(residual, &self.attention_norm)
    }

    /// Runs stage `stage` of [`STAGES`] on its input and returns the next one's, empty after the last. Stages that
    /// write to the residual stream add to `residual`; the first appends keys and values to `layers`, one a
    /// sequence: every sequence has as many rows of the input, one after the other.
    pub(crate) fn advance(
        &self,
        stage: usize,
        input: &[f32],
        residual: &mut [f32],
        positions: &Positions,
        layers: &mut [&mut KeyValues],
    ) -> Vec<f32> {
        let backend = &self.backend;
        match stage {
            0 => {
                let read = self.attended(input, positions);
                let mut attended = buffers::take(read.query.len());
                attention(backend, &self.shape, &read, layers, &mut attended);
                [read.query, read.key, read.value].into_iter().for_each(buffers::give);
                attended
            }
            1 => {
                self.output.add(backend, input, residual);
                self.normed(residual, &self.feed_forward_norm)
            }
            2 => {
                let [mut gate, up] = apply_all(backend, [&self.gate, &self.up], input);
                ops::swiglu(backend, &mut gate, &up);
                buffers::give(up);
                gate
            }
            _ => {
                self.down.add(backend, input, residual);
                Vec::new()
            }
        }
    }

    /// What the attention reads, from the first stage's input.
    pub(crate) fn attended(&self, input: &[f32], positions: &Positions) -> Attended {
        let [query, key, value] = apply_all(&self.backend, [&self.query, &self.key, &self.value], input);
        let mut read = Attended { query, key, value };
        self.turn(&mut read, positions);
        read
    }

    /// Turns queries and keys by their positions' angles.
    pub(crate) fn turn(&self, read: &mut Attended, positions: &Positions) {
        let AttentionShape { heads, kv_heads, head_size, .. } = self.shape;
        let rotation = ops::Rotation {
            head_size,
            rotated: positions.rotated,
            cosines: &positions.cosines,
            sines: &positions.sines,
        };
        ops::rope_interleaved(&self.backend, &mut read.query, heads, &rotation);
        ops::rope_interleaved(&self.backend, &mut read.key, kv_heads, &rotation);
    }

    /// All stages for a whole sequence at once, which nothing precedes and nothing follows: `residual` becomes the
    /// stream after the block.
    pub fn forward_alone(&self, residual: &mut [f32], positions: &Positions) {
        let mut input = self.enter(residual);
        for stage in 0..STAGES {
            let next = self.advance_alone(stage, &input, residual, positions);
            buffers::give(std::mem::replace(&mut input, next));
        }
    }

    /// [`Block::advance`] for a whole sequence at once, which nothing precedes and nothing follows.
    pub fn advance_alone(
        &self,
        stage: usize,
        input: &[f32],
        residual: &mut [f32],
        positions: &Positions,
    ) -> Vec<f32> {
        self.advance(stage, input, residual, positions, &mut [&mut self.no_key_values()])
    }

    /// Of a sequence that begins.
    pub(crate) fn no_key_values(&self) -> KeyValues {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        KeyValues::new(KvFormat::F32, kv_heads, head_size).expect("numbers as they are fit any head")
    }

    pub(crate) fn normed(&self, residual: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut out = buffers::take(residual.len());
        ops::rms_norm(&self.backend, residual, weight, self.norm_epsilon, &mut out);
        out
    }
}
