//! The forward pass: a Spec run on stored weights with f32 activations and a cache of keys and values.
//!
//! Data flows one way: tokens → embedding → blocks → norm → head. A prompt goes through in pieces of
//! [`Transformer::PIECE`] positions, so that memory for activations is bounded whatever the prompt's length.
//! Invariant: the result does not depend on the number of threads.

use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::positions::RopeFrequencies;
use crate::{Block, Embedding, Error, KvCache, Positions, Spec, Weights, Work};
use kvant_kernels::{Backend, KeyValues, KvFormat};

/// A network that runs.
pub struct Transformer {
    spec: Spec,
    backend: Backend,
    embedding: Embedding,
    blocks: Vec<Block>,
    output_norm: LoadedNorm,
    head: Linear,
    ropes: Vec<RopeFrequencies>,
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
        let embedding = Embedding::load(weights, &backend)?;
        let head = match &spec.output.head {
            Some(slot) => Linear::load(weights, &backend, slot)?,
            None => Linear::without_bias(embedding.tokens().clone()),
        };
        let blocks =
            (0..spec.blocks.len()).map(|i| Block::load(weights, &backend, i)).collect::<Result<_, _>>()?;
        let output_norm = LoadedNorm::load(weights, &spec.output.norm)?;
        let ropes = RopeFrequencies::of(&spec);
        Ok(Self { spec, backend, embedding, blocks, output_norm, head, ropes, kv_format: KvFormat::F32 })
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
        self.check(cache, tokens)?;
        let mut states = Vec::with_capacity(tokens.len() * self.spec.hidden);
        for piece in tokens.chunks(Self::PIECE) {
            let places = cache.len()..cache.len() + piece.len();
            let x = self.blocks(std::slice::from_mut(cache), piece, places);
            let start = states.len();
            states.resize(start + x.len(), 0.0);
            self.output_norm.apply_into(&self.backend, &x, &mut states[start..]);
        }
        Ok(states)
    }

    /// Whether `tokens` can follow what `cache` holds.
    fn check(&self, cache: &KvCache, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.spec.vocabulary;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let needed = cache.len() + tokens.len();
        // A learned position that was not trained has no row.
        let context = self.embedding.positions().map_or(cache.capacity(), |rows| rows.min(cache.capacity()));
        if needed > context { Err(Error::Context { needed, context }) } else { Ok(()) }
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
        for (cache, token) in caches.iter().zip(tokens) {
            self.check(cache, std::slice::from_ref(token))?;
        }
        let places: Vec<usize> = caches.iter().map(KvCache::len).collect();
        let x = self.blocks(caches, tokens, places.into_iter());
        let mut states = vec![0.0; x.len()];
        self.output_norm.apply_into(&self.backend, &x, &mut states);
        Ok(states)
    }

    /// The residual stream after all blocks for as many tokens of each sequence, which stand at `places`, one sequence
    /// after the other. At most [`Self::PIECE`] tokens.
    fn blocks(
        &self,
        caches: &mut [KvCache],
        tokens: &[u32],
        places: impl Iterator<Item = usize> + Clone,
    ) -> Vec<f32> {
        let each = tokens.len() / caches.len().max(1);
        let mut x = self.embedding.rows(tokens, places.clone());
        let positions = Positions::at(&self.ropes, places);
        for (index, block) in self.blocks.iter().enumerate() {
            let mut states: Vec<&mut [KeyValues]> =
                caches.iter_mut().map(|cache| &mut cache.blocks[index][..]).collect();
            block.forward(&mut x, &positions, &mut states);
        }
        caches.iter_mut().for_each(|cache| cache.length += each);
        x
    }
}
