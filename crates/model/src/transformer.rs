//! A network with loaded weights. Activations between the matrix products are `f32`.
//!
//! Data flow: tokens → embedding → blocks → norm ([`Transformer::step`]) → head ([`Transformer::logits`]).
//! Invariant: the result does not depend on the number of threads.

use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::positions::RopeFrequencies;
use crate::{Block, Embedding, Error, OpCount, Sequence, Spec, StatePool, Weights};
use kvant_kernels::{Backend, KvFormat};

/// A network with loaded weights.
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
    /// The number of tokens in one piece of a long prompt. It bounds the memory for activations during prefill.
    pub const PIECE: usize = 512;

    /// Loads the network and prepares each linear map for this processor.
    ///
    /// # Errors
    /// Errors of [`Weights::tensor`] or of a kernel.
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

    /// Sets the format of the KV cache.
    ///
    /// # Errors
    /// [`Error::KvFormat`] if the format's blocks do not divide the head size.
    pub fn with_kv_format(mut self, format: KvFormat) -> Result<Self, Error> {
        Sequence::with_format(&self.spec, 0, format)?;
        self.kv_format = format;
        Ok(self)
    }

    /// Creates an empty sequence for at most `capacity` positions, without a memory limit.
    pub fn sequence(&self, capacity: usize) -> Sequence {
        Sequence::with_format(&self.spec, capacity, self.kv_format).expect("a format that was checked")
    }

    /// Creates a pool of at most `bytes` for the states of sequences.
    pub fn pool(&self, bytes: usize) -> StatePool {
        StatePool::new(&self.spec, self.kv_format, bytes).expect("a format that was checked")
    }

    /// The network's description.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The backend that runs the network.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Multiply-adds and weight bytes of one token in all blocks.
    pub fn op_count_of_blocks(&self) -> OpCount {
        self.blocks.iter().map(Block::op_count).sum()
    }

    /// Multiply-adds and weight bytes of the logits of one token.
    pub fn op_count_of_head(&self) -> OpCount {
        OpCount::of(self.head.weight())
    }

    /// Computes logits from normalized hidden states. The input is n × hidden, the result n × vocabulary.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let rows = hidden.len() / self.spec.hidden;
        let mut logits = vec![0.0; rows * self.head.weight().rows()];
        self.head.apply_into(&self.backend, &self.head.input(hidden), &mut logits);
        self.spec.output.apply(&self.backend, &mut logits);
        logits
    }
}
