//! The forward pass: a Spec run on stored weights with f32 activations and a cache of keys and values.
//!
//! Data flows one way: tokens → embedding → blocks → norm → head. A prompt goes through in pieces of
//! [`Transformer::PIECE`] positions, so that memory for activations is bounded whatever the prompt's length.
//! Invariant: the result does not depend on the number of threads.

use crate::{BlockSpec, Error, KvCache, Slot, Spec, Weights};
use kvant_kernels::{AttentionShape, Backend, Matrix, attention, ops};
use std::sync::Arc;

/// A linear map ready to multiply.
struct Linear {
    weight: Arc<dyn Matrix>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn load(weights: &Weights, backend: &Backend, slot: &Slot) -> Result<Self, Error> {
        let name = slot.weight();
        let weight = backend.load(&weights.tensor(&name)?).map_err(|source| Error::Kernel {
            path: weights.path().to_owned(),
            tensor: name,
            source,
        })?;
        let bias = slot.bias().map(|name| weights.vector(&name)).transpose()?;
        Ok(Self { weight: Arc::from(weight), bias })
    }

    /// `x` is n × columns; the result n × rows.
    fn apply(&self, backend: &Backend, x: &[f32]) -> Vec<f32> {
        let n = x.len() / self.weight.columns();
        let mut y = vec![0.0; n * self.weight.rows()];
        self.weight.multiply(x, &mut y);
        if let Some(bias) = &self.bias {
            ops::add_bias(backend, &mut y, bias);
        }
        y
    }
}

struct Block {
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    feed_forward_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    heads: usize,
    shape: AttentionShape,
}

impl Block {
    fn load(weights: &Weights, backend: &Backend, spec: &BlockSpec) -> Result<Self, Error> {
        let linear = |slot: &Slot| Linear::load(weights, backend, slot);
        let (a, f) = (&spec.attention, &spec.feed_forward);
        Ok(Self {
            attention_norm: weights.vector(&spec.attention_norm.name)?,
            query: linear(&a.query)?,
            key: linear(&a.key)?,
            value: linear(&a.value)?,
            output: linear(&a.output)?,
            feed_forward_norm: weights.vector(&spec.feed_forward_norm.name)?,
            gate: linear(&f.gate)?,
            up: linear(&f.up)?,
            down: linear(&f.down)?,
            heads: a.heads,
            shape: AttentionShape {
                heads: a.heads,
                kv_heads: a.kv_heads,
                head_size: a.head_size,
                scale: 1.0 / (a.head_size as f32).sqrt(),
            },
        })
    }
}

/// A network that runs.
pub struct Transformer {
    spec: Spec,
    backend: Backend,
    embedding: Arc<dyn Matrix>,
    blocks: Vec<Block>,
    output_norm: Vec<f32>,
    head: Linear,
    frequencies: Vec<f32>,
    rope_factor: f32,
}

impl Transformer {
    /// Positions that go through the blocks at once.
    pub const PIECE: usize = 512;

    /// Prepares every map for this processor.
    ///
    /// # Errors
    /// What [`Weights::tensor`] or a kernel says.
    pub fn load(weights: &Weights, backend: Backend) -> Result<Self, Error> {
        let spec = weights.spec().clone();
        let embedding = Linear::load(weights, &backend, &spec.embedding)?.weight;
        let head = match &spec.head {
            Some(slot) => Linear::load(weights, &backend, slot)?,
            None => Linear { weight: embedding.clone(), bias: None },
        };
        let blocks =
            spec.blocks.iter().map(|b| Block::load(weights, &backend, b)).collect::<Result<_, _>>()?;
        let output_norm = weights.vector(&spec.output_norm.name)?;
        let (frequencies, rope_factor) = spec.rope.frequencies();
        Ok(Self { spec, backend, embedding, blocks, output_norm, head, frequencies, rope_factor })
    }

    /// The network's description.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What it runs on.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Bytes of weights that one decoded token reads.
    pub fn weight_bytes_per_token(&self) -> usize {
        let block = |b: &Block| {
            [&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down]
                .iter()
                .map(|l| l.weight.weight_bytes())
                .sum::<usize>()
        };
        self.blocks.iter().map(block).sum::<usize>() + self.head.weight.weight_bytes()
    }

    /// Runs `tokens` after what `cache` holds, and returns the normed hidden states, `tokens.len() × hidden`.
    ///
    /// # Errors
    /// [`Error::Token`] for an id outside the vocabulary, [`Error::Context`] where the cache would overflow. The
    /// cache is then as it was.
    pub fn hidden(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let vocabulary = self.spec.vocabulary;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let needed = cache.len() + tokens.len();
        if needed > cache.capacity() {
            return Err(Error::Context { needed, context: cache.capacity() });
        }
        let mut states = Vec::with_capacity(tokens.len() * self.spec.hidden);
        for piece in tokens.chunks(Self::PIECE) {
            let x = self.piece(cache, piece);
            let start = states.len();
            states.resize(start + x.len(), 0.0);
            ops::rms_norm(&self.backend, &x, &self.output_norm, self.spec.norm_epsilon, &mut states[start..]);
        }
        Ok(states)
    }

    /// Logits of normed hidden states: n × hidden in, n × vocabulary out.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        self.head.apply(&self.backend, hidden)
    }

    /// Runs `tokens` and returns the last position's logits.
    ///
    /// # Errors
    /// As [`Transformer::hidden`]; no tokens are a [`Error::Context`] of zero.
    pub fn next(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        if tokens.is_empty() {
            return Err(Error::Context { needed: 0, context: cache.capacity() });
        }
        let states = self.hidden(cache, tokens)?;
        Ok(self.logits(&states[states.len() - self.spec.hidden..]))
    }

    /// The residual stream after all blocks for at most [`Self::PIECE`] tokens.
    fn piece(&self, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
        let (hidden, n, past) = (self.spec.hidden, tokens.len(), cache.len());
        let mut x = vec![0.0; n * hidden];
        for (row, &token) in x.chunks_exact_mut(hidden).zip(tokens) {
            self.embedding.row(token as usize, row);
        }
        let (cosines, sines) = self.rotation(past, n);
        let mut normed = vec![0.0; n * hidden];
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            let rotation = ops::Rotation {
                head_size: block.shape.head_size,
                rotated: self.spec.rope.rotated,
                cosines: &cosines,
                sines: &sines,
            };
            ops::rms_norm(&self.backend, &x, &block.attention_norm, self.spec.norm_epsilon, &mut normed);
            let mut query = block.query.apply(&self.backend, &normed);
            let mut key = block.key.apply(&self.backend, &normed);
            let value = block.value.apply(&self.backend, &normed);
            ops::rope_interleaved(&self.backend, &mut query, block.heads, &rotation);
            ops::rope_interleaved(&self.backend, &mut key, block.shape.kv_heads, &rotation);
            layer.keys.extend_from_slice(&key);
            layer.values.extend_from_slice(&value);
            let mut attended = vec![0.0; query.len()];
            attention(&self.backend, &block.shape, &query, &layer.keys, &layer.values, past, &mut attended);
            ops::add(&self.backend, &mut x, &block.output.apply(&self.backend, &attended));

            ops::rms_norm(&self.backend, &x, &block.feed_forward_norm, self.spec.norm_epsilon, &mut normed);
            let mut gate = block.gate.apply(&self.backend, &normed);
            let up = block.up.apply(&self.backend, &normed);
            ops::swiglu(&self.backend, &mut gate, &up);
            ops::add(&self.backend, &mut x, &block.down.apply(&self.backend, &gate));
        }
        cache.length = past + n;
        x
    }

    /// Cosines and sines of positions `past..past + n`, `n × rotated / 2` each.
    fn rotation(&self, past: usize, n: usize) -> (Vec<f32>, Vec<f32>) {
        let angles =
            (past..past + n).flat_map(|position| self.frequencies.iter().map(move |f| position as f32 * f));
        angles.map(|a| (a.cos() * self.rope_factor, a.sin() * self.rope_factor)).unzip()
    }
}
