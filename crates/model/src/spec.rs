//! A network as plain data: its blocks, the name and shape of every map, and which stream each map reads.
//!
//! Names are GGUF's without the `.weight` suffix. A [`StreamId`] names an activation; maps that share one see the
//! same input (q, k and v; gate and up), so that statistics of it are gathered once.

use crate::Rope;

/// The name of an activation that linear maps read, for example `blk.3.attn_in`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub String);

/// One linear map: `rows × columns`, `y = W x (+ b)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// GGUF name without suffix, for example `blk.0.attn_q`.
    pub name: String,
    /// The activation it reads.
    pub input: StreamId,
    /// Length of its output.
    pub rows: usize,
    /// Length of its input.
    pub columns: usize,
    /// Whether a bias of `rows` is added.
    pub bias: bool,
}

impl Slot {
    /// The weight's tensor name.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The bias's tensor name, where there is one.
    pub fn bias(&self) -> Option<String> {
        self.bias.then(|| format!("{}.bias", self.name))
    }
}

/// One vector of a network, for example the weight of a norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorSlot {
    /// Full GGUF tensor name.
    pub name: String,
    /// How many numbers.
    pub length: usize,
}

/// Causal self-attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Numbers a head.
    pub head_size: usize,
    /// Queries.
    pub query: Slot,
    /// Keys.
    pub key: Slot,
    /// Values.
    pub value: Slot,
    /// Back to the residual stream.
    pub output: Slot,
}

/// A gated feed-forward network: `down(silu(gate x) · up x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// The gate.
    pub gate: Slot,
    /// What is gated.
    pub up: Slot,
    /// Back to the residual stream.
    pub down: Slot,
}

/// One block: norm, attention, norm, feed-forward, each added to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// Root-mean-square norm before attention.
    pub attention_norm: VectorSlot,
    /// Attention.
    pub attention: Attention,
    /// Root-mean-square norm before the feed-forward network.
    pub feed_forward_norm: VectorSlot,
    /// Feed-forward network.
    pub feed_forward: FeedForward,
}

/// The maps of a block that read one activation, in order of computation: what is calibrated together.
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// The maps.
    pub slots: Vec<&'a Slot>,
    /// Whether their output is added to the residual stream.
    pub residual: bool,
}

impl BlockSpec {
    /// The block's stages; [`crate::Block`] runs them in this order.
    pub fn stages(&self) -> [Stage<'_>; crate::STAGES] {
        let (a, f) = (&self.attention, &self.feed_forward);
        [
            Stage { slots: vec![&a.query, &a.key, &a.value], residual: false },
            Stage { slots: vec![&a.output], residual: true },
            Stage { slots: vec![&f.gate, &f.up], residual: false },
            Stage { slots: vec![&f.down], residual: true },
        ]
    }
}

/// A whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The family's GGUF name.
    pub architecture: &'static str,
    /// Tokens.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Added to the mean square in norms.
    pub norm_epsilon: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Token embedding, `vocabulary × hidden`.
    pub embedding: Slot,
    /// The blocks, first to last.
    pub blocks: Vec<BlockSpec>,
    /// Norm before the head.
    pub output_norm: VectorSlot,
    /// The head, `vocabulary × hidden`; `None` where the embedding serves (tied).
    pub head: Option<Slot>,
}

impl Spec {
    /// Every linear map in order of computation, embedding first, head last.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let blocks = self.blocks.iter().flat_map(|b| {
            let (a, f) = (&b.attention, &b.feed_forward);
            [&a.query, &a.key, &a.value, &a.output, &f.gate, &f.up, &f.down]
        });
        std::iter::once(&self.embedding).chain(blocks).chain(&self.head)
    }

    /// Every norm vector.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorSlot> {
        self.blocks
            .iter()
            .flat_map(|b| [&b.attention_norm, &b.feed_forward_norm])
            .chain(std::iter::once(&self.output_norm))
    }

    /// The map that gives logits.
    pub fn head(&self) -> &Slot {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}
