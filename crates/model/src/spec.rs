//! The description of a network as plain data: everything that determines its output.
//!
//! The forward pass, the backward pass, calibration, operation counts and memory estimates all read this description.
//! Names are those of GGUF; a [`Slot`]'s name has no `.weight` suffix. The linear maps that read the same activation
//! form a [`Stage`] (queries, keys and values; gate and up). Calibration gathers the statistics of that activation
//! once.

use crate::Rope;

/// One linear map: `rows × columns`, `y = W x (+ b)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// GGUF name without suffix, for example `blk.0.attn_q`.
    pub name: String,
    /// Length of the output.
    pub rows: usize,
    /// Length of the input.
    pub columns: usize,
    /// True if a bias of length `rows` is added.
    pub bias: bool,
}

impl Slot {
    /// The weight's tensor name.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The bias's tensor name, if there is a bias.
    pub fn bias(&self) -> Option<String> {
        self.bias.then(|| format!("{}.bias", self.name))
    }
}

/// One vector of a network, for example the weight of a norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorSlot {
    /// Full GGUF tensor name.
    pub name: String,
    /// The number of elements.
    pub length: usize,
}

/// The divisor of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The root mean square.
    RootMeanSquare,
    /// The standard deviation; the norm first subtracts the mean.
    Layer,
}

/// A norm of rows that have the length of its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The divisor.
    pub kind: NormKind,
    /// Factor of the result, for each element.
    pub weight: VectorSlot,
    /// Added to the result. Only for [`NormKind::Layer`].
    pub bias: Option<VectorSlot>,
    /// Added to the mean square, or to the variance for [`NormKind::Layer`].
    pub epsilon: f32,
}

/// The linear maps that compute queries, keys and values.
#[derive(Clone, Debug, PartialEq)]
pub enum Projections {
    /// One map each.
    Separate {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// Keys, `kv_heads × head_size` rows.
        key: Slot,
        /// Values, `kv_heads × head_size` rows.
        value: Slot,
    },
    /// One map for all three; its rows are in the order queries, keys, values.
    Fused(Slot),
}

impl Projections {
    /// The maps, in the order queries, keys, values.
    pub fn slots(&self) -> Vec<&Slot> {
        match self {
            Self::Separate { query, key, value } => vec![query, key, value],
            Self::Fused(slot) => vec![slot],
        }
    }
}

/// Causal self-attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The number of query heads.
    pub heads: usize,
    /// The number of key heads and of value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_size: usize,
    /// Queries, keys and values.
    pub projections: Projections,
    /// Norm of each head of the queries, before the rotary embedding.
    pub query_norm: Option<Norm>,
    /// Norm of each head of the keys, before the rotary embedding.
    pub key_norm: Option<Norm>,
    /// Rotary embedding of queries and keys.
    pub rope: Option<Rope>,
    /// Factor of the dot products of queries and keys.
    pub scale: f32,
    /// The output projection; its result is added to the residual stream.
    pub output: Slot,
}

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// GELU, approximated by tanh.
    GeluTanh,
}

/// A feed-forward network: `down(activation(gate x) · up x)`, or `down(activation(up x))` without a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// The gate projection, if there is one.
    pub gate: Option<Slot>,
    /// The up projection, which the gate multiplies.
    pub up: Slot,
    /// The down projection; its result is added to the residual stream.
    pub down: Slot,
    /// The activation function.
    pub activation: Activation,
}

/// The computation of a sublayer.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "plain data, a few of them a block")]
pub enum Body {
    /// Reads the current and all earlier positions.
    Attention(Attention),
    /// Reads only the current position.
    FeedForward(FeedForward),
}

/// One sublayer: `x + body(before(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sublayer {
    /// Norm of the body's input.
    pub before: Option<Norm>,
    /// The body.
    pub body: Body,
}

/// One block: sublayers, whose results are added to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// The sublayers, in order of computation.
    pub sublayers: Vec<Sublayer>,
}

/// The linear maps of a block that read the same activation. They are calibrated together.
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// The maps.
    pub slots: Vec<&'a Slot>,
    /// True if their output is added to the residual stream.
    pub residual: bool,
}

impl Body {
    /// The stages of a body, in order of computation. The last stage writes to the residual stream.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let (first, last) = match self {
            Self::Attention(a) => (a.projections.slots(), &a.output),
            Self::FeedForward(f) => (f.gate.iter().chain([&f.up]).collect(), &f.down),
        };
        vec![Stage { slots: first, residual: false }, Stage { slots: vec![last], residual: true }]
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        match self {
            Self::Attention(a) => a.query_norm.iter().chain(&a.key_norm),
            Self::FeedForward(_) => None.iter().chain(&None),
        }
    }
}

impl BlockSpec {
    /// The block's stages, in the order in which [`crate::Block`] runs them.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.body.stages()).collect()
    }

    /// All linear maps, in order of computation.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.stages().into_iter().flat_map(|stage| stage.slots)
    }

    /// The attentions, in order of computation.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::Attention(attention) => Some(attention),
            Body::FeedForward(_) => None,
        })
    }

    /// The feed-forward networks, in order of computation.
    pub fn feed_forwards(&self) -> impl Iterator<Item = &FeedForward> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::FeedForward(feed_forward) => Some(feed_forward),
            Body::Attention(_) => None,
        })
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.before.iter().chain(sublayer.body.norms()))
    }
}

/// The embedding, before the first block.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// One row per token, `vocabulary × hidden`.
    pub tokens: Slot,
    /// One row per position, `context × hidden`, which is added to the token's row.
    pub positions: Option<Slot>,
}

/// The output norm and the output head, after the last block.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSpec {
    /// Norm before the head.
    pub norm: Norm,
    /// The output head, `vocabulary × hidden`; `None` if it is tied to the embedding.
    pub head: Option<Slot>,
}

/// A whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The family's GGUF name.
    pub architecture: &'static str,
    /// The number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The hidden size: the width of the residual stream.
    pub hidden: usize,
    /// The trained context length, in positions.
    pub context: usize,
    /// The embedding, before the first block.
    pub embedding: EmbeddingSpec,
    /// The blocks, first to last.
    pub blocks: Vec<BlockSpec>,
    /// The output norm and head, after the last block.
    pub output: OutputSpec,
}

impl Spec {
    /// All matrices in order of computation: embedding first, head last.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let embedding = std::iter::once(&self.embedding.tokens).chain(&self.embedding.positions);
        embedding.chain(self.blocks.iter().flat_map(BlockSpec::slots)).chain(&self.output.head)
    }

    /// All vectors of the norms, in order of computation.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorSlot> {
        let norms = self.blocks.iter().flat_map(BlockSpec::norms).chain([&self.output.norm]);
        norms.flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias))
    }

    /// The linear map that computes the logits: the output head, or the token embedding if the head is tied.
    pub fn head(&self) -> &Slot {
        self.output.head.as_ref().unwrap_or(&self.embedding.tokens)
    }

    /// All attentions, first to last.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().flat_map(BlockSpec::attentions)
    }

    /// All feed-forward networks, first to last.
    pub fn feed_forwards(&self) -> impl Iterator<Item = &FeedForward> {
        self.blocks.iter().flat_map(BlockSpec::feed_forwards)
    }

    /// The distinct rotary embeddings, in order of first use.
    pub fn ropes(&self) -> Vec<&Rope> {
        let mut ropes: Vec<&Rope> = Vec::new();
        for rope in self.attentions().filter_map(|attention| attention.rope.as_ref()) {
            if !ropes.contains(&rope) {
                ropes.push(rope);
            }
        }
        ropes
    }
}
