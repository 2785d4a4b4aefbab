//! A network with loaded weights. Activations between the matrix products are `f32`.
//!
//! Data flow: tokens → embedding → blocks → norm ([`Transformer::step`]) → head ([`Transformer::logits`]).
//! Invariant: the result does not depend on the number of threads.

use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::positions::RopeFrequencies;
use crate::{Block, Embedding, Error, Head, OpCount, Sequence, Spec, StatePool, Weights};
use kvant_kernels::{Backend, KvFormat};

/// A network with loaded weights.
pub struct Transformer {
    spec: Spec,
    backend: Backend,
    pub(crate) embedding: Embedding,
    pub(crate) blocks: Vec<Block>,
    output_norm: Option<LoadedNorm>,
    head: Option<Linear>,
    pub(crate) dense: Vec<Linear>,
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
            Head::None => None,
            Head::Tied => Some(Linear::without_bias(embedding.tokens().clone())),
            Head::Own(slot) => Some(Linear::load(weights, &backend, slot)?),
        };
        let dense = spec.text_vector.iter().flat_map(|vector| &vector.dense);
        let dense = dense.map(|slot| Linear::load(weights, &backend, slot)).collect::<Result<_, _>>()?;
        let blocks =
            (0..spec.blocks.len()).map(|i| Block::load(weights, &backend, i)).collect::<Result<_, _>>()?;
        let norm = spec.output.norm.as_ref();
        let output_norm = norm.map(|norm| LoadedNorm::load(weights, norm)).transpose()?;
        let ropes = RopeFrequencies::of(&spec);
        let kv_format = KvFormat::F32;
        Ok(Self { spec, backend, embedding, blocks, output_norm, head, dense, ropes, kv_format })
    }

    /// Sets the format of the KV cache.
    #[must_use]
    pub fn with_kv_format(self, kv_format: KvFormat) -> Self {
        Self { kv_format, ..self }
    }

    /// Creates an empty sequence for at most `capacity` positions, without a memory limit.
    pub fn sequence(&self, capacity: usize) -> Sequence {
        Sequence::with_format(&self.spec, capacity, self.kv_format)
    }

    /// Creates a pool of at most `bytes` for the states of sequences.
    pub fn pool(&self, bytes: usize) -> StatePool {
        StatePool::new(&self.spec, self.kv_format, bytes)
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
        self.head.as_ref().map(|head| OpCount::of(head.weight())).unwrap_or_default()
    }

    /// Normalizes rows of the last residual stream.
    pub(crate) fn normalized(&self, residual: Vec<f32>) -> Vec<f32> {
        match &self.output_norm {
            Some(norm) => norm.apply(&self.backend, &residual),
            None => residual,
        }
    }

    /// Returns an error if the network computes no logits.
    ///
    /// # Errors
    /// [`Error::NoLogits`].
    pub fn check_logits(&self) -> Result<(), Error> {
        let architecture = self.spec.architecture;
        if self.head.is_some() { Ok(()) } else { Err(Error::NoLogits { architecture }) }
    }

    /// Computes logits from normalized hidden states. The input is n × hidden, the result n × vocabulary.
    ///
    /// Panics if the network computes no logits.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let head = self.head.as_ref().expect("a network with an output head");
        let rows = hidden.len() / self.spec.hidden;
        let mut logits = vec![0.0; rows * head.weight().rows()];
        head.apply_into(&self.backend, &head.input(hidden), &mut logits);
        self.spec.output.apply(&self.backend, &mut logits);
        logits
    }
}
