//! A network that runs: a Spec on stored weights, with `f32` activations between the products.
//!
//! Data flows one way: tokens → embedding → blocks → norm ([`Transformer::step`]) → head ([`Transformer::logits`]).
//! Invariant: the result does not depend on the number of threads.

use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::positions::RopeFrequencies;
use crate::{Block, Embedding, Error, OpCount, Sequence, Spec, StatePool, Weights};
use kvant_kernels::{Backend, KvFormat};

/// A network that runs.
pub struct Transformer {
    spec: Spec,
    backend: Backend,
    pub(crate) embedding: Embedding,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: LoadedNorm,
    head: Linear,
    pub(crate) ropes: Vec<RopeFrequencies>,
    kv_format: KvFormat,
}

impl Transformer {
    /// Tokens of a piece of a long prompt: memory for activations is bounded by them.
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

    /// The same with keys and values in another format.
    ///
    /// # Errors
    /// [`Error::KvFormat`] where the format's blocks don't divide a head.
    pub fn with_kv_format(mut self, format: KvFormat) -> Result<Self, Error> {
        Sequence::with_format(&self.spec, 0, format)?;
        self.kv_format = format;
        Ok(self)
    }

    /// An empty sequence for at most `capacity` positions, with the system's memory.
    pub fn sequence(&self, capacity: usize) -> Sequence {
        Sequence::with_format(&self.spec, capacity, self.kv_format).expect("a format that was checked")
    }

    /// A pool of at most `bytes` for the states of sequences.
    pub fn pool(&self, bytes: usize) -> StatePool {
        StatePool::new(&self.spec, self.kv_format, bytes).expect("a format that was checked")
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
    pub fn op_count_of_blocks(&self) -> OpCount {
        self.blocks.iter().map(Block::op_count).fold(OpCount::default(), OpCount::plus)
    }

    /// The same for its logits.
    pub fn op_count_of_head(&self) -> OpCount {
        OpCount::of(self.head.weight())
    }

    /// Logits of normed hidden states: n × hidden in, n × vocabulary out.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let rows = hidden.len() / self.spec.hidden;
        let mut logits = vec![0.0; rows * self.head.weight().rows()];
        self.head.apply_into(&self.backend, &self.head.input(hidden), &mut logits);
        logits
    }
}
