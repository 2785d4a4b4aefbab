//! The forward pass: a Spec run on stored weights with f32 activations and a cache of keys and values.
//!
//! Data flows one way: tokens → embedding → blocks → norm → head. A prompt goes through in pieces of
//! [`Transformer::PIECE`] positions, so that memory for activations is bounded whatever the prompt's length.
//! Invariant: the result does not depend on the number of threads.

use crate::block::{Block, Linear, Positions, STAGES};
use crate::{Error, KvCache, Spec, Weights, Work, buffers};
use kvant_kernels::{Arithmetic, Backend, KvFormat, Matrix, ops};
use std::sync::Arc;

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
    kv_format: KvFormat,
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
        // Rows of an embedding are read one by one; it is repacked only where it is the head too.
        let reader = match spec.head {
            Some(_) => backend.clone().with(Arithmetic::Float),
            None => backend.clone(),
        };
        let embedding = Linear::load(weights, &reader, &spec.embedding)?.into_weight();
        let head = match &spec.head {
            Some(slot) => Linear::load(weights, &backend, slot)?,
            None => Linear::without_bias(embedding.clone()),
        };
        let blocks =
            (0..spec.blocks.len()).map(|i| Block::load(weights, &backend, i)).collect::<Result<_, _>>()?;
        let output_norm = weights.vector(&spec.output_norm.name)?;
        let (frequencies, rope_factor) = spec.rope.frequencies();
        Ok(Self {
            spec,
            backend,
            embedding,
            blocks,
            output_norm,
            head,
            frequencies,
            rope_factor,
            kv_format: KvFormat::F32,
        })
    }

    /// The same with caches in another format.
    ///
    /// # Errors
    /// [`Error::KvFormat`] where the format's blocks don't divide a head.
    pub fn with_kv_format(mut self, format: KvFormat) -> Result<Self, Error> {
        KvCache::with(&self.spec, 0, format)?;
        self.kv_format = format;
        Ok(self)
    }

    /// An empty cache for at most `capacity` positions.
    pub fn cache(&self, capacity: usize) -> KvCache {
        KvCache::with(&self.spec, capacity, self.kv_format).expect("a format that was checked")
    }

    /// The network's description.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What it runs on.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What one token multiplies and reads in all blocks.
    pub fn work_of_blocks(&self) -> Work {
        self.blocks.iter().map(Block::work).fold(Work::default(), Work::plus)
    }

    /// The same for its logits.
    pub fn work_of_head(&self) -> Work {
        Work::of(self.head.weight())
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
        let rows = hidden.len() / self.spec.hidden;
        let mut logits = vec![0.0; rows * self.head.weight().rows()];
        self.head.apply_into(&self.backend, &self.head.input(hidden), &mut logits);
        logits
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

    /// Runs one token of each sequence after what its cache holds, all together, and returns the normed hidden states,
    /// one row a sequence.
    ///
    /// # Errors
    /// As [`Transformer::hidden`]; the caches are then as they were.
    pub fn together(&self, caches: &mut [KvCache], tokens: &[u32]) -> Result<Vec<f32>, Error> {
        assert_eq!(caches.len(), tokens.len(), "a token for every sequence");
        let vocabulary = self.spec.vocabulary;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        if let Some(full) = caches.iter().find(|c| c.len() == c.capacity()) {
            return Err(Error::Context { needed: full.len() + 1, context: full.capacity() });
        }
        let mut x = self.embed(tokens);
        let places = caches.iter().map(KvCache::len);
        let rotated = self.spec.rope.rotated;
        let positions = Positions::turned(rotated, &self.frequencies, self.rope_factor, places);
        for (index, block) in self.blocks.iter().enumerate() {
            let mut layers: Vec<_> = caches.iter_mut().map(|cache| &mut cache.layers[index]).collect();
            let mut input = block.enter(&x);
            for stage in 0..STAGES {
                let next = block.advance(stage, &input, &mut x, &positions, &mut layers);
                buffers::give(std::mem::replace(&mut input, next));
            }
        }
        caches.iter_mut().for_each(|cache| cache.length += 1);
        let mut states = vec![0.0; x.len()];
        ops::rms_norm(&self.backend, &x, &self.output_norm, self.spec.norm_epsilon, &mut states);
        Ok(states)
    }

    fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let mut x = vec![0.0; tokens.len() * self.spec.hidden];
        for (row, &token) in x.chunks_exact_mut(self.spec.hidden).zip(tokens) {
            self.embedding.row(token as usize, row);
        }
        x
    }

    /// The residual stream after all blocks for at most [`Self::PIECE`] tokens.
    fn piece(&self, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
        let (n, past) = (tokens.len(), cache.len());
        let mut x = self.embed(tokens);
        let rotated = self.spec.rope.rotated;
        let positions = Positions::turned(rotated, &self.frequencies, self.rope_factor, past..past + n);
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            let mut input = block.enter(&x);
            for stage in 0..STAGES {
                let next = block.advance(stage, &input, &mut x, &positions, &mut [&mut *layer]);
                buffers::give(std::mem::replace(&mut input, next));
            }
        }
        cache.length = past + n;
        x
    }
}
