//! A network as plain data: everything that decides its output.
//!
//! The forward pass, the backward pass, calibration, operation counts and memory estimates all read this description.
//! Names are GGUF's; a [`Slot`]'s name has no `.weight` suffix. Maps that read one activation form a [`Stage`]
//! (queries, keys and values; gate and up), so that statistics of it are gathered once.

use crate::Rope;

/// One linear map: `rows × columns`, `y = W x (+ b)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// GGUF name without suffix, for example `blk.0.attn_q`.
    pub name: String,
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

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The root mean square.
    RootMeanSquare,
    /// The standard deviation, after the mean is subtracted.
    Layer,
}

/// A norm over rows as long as its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// What it divides by.
    pub kind: NormKind,
    /// Multiplies the result.
    pub weight: VectorSlot,
    /// Added to the result. Of [`NormKind::Layer`] alone.
    pub bias: Option<VectorSlot>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The maps that give queries, keys and values.
#[derive(Clone, Debug, PartialEq)]
pub enum Projections {
    /// One each.
    Separate {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// Keys, `kv_heads × head_size` rows.
        key: Slot,
        /// Values, as many.
        value: Slot,
    },
    /// One map whose rows are those of the queries, then the keys, then the values.
    Fused(Slot),
}

impl Projections {
    /// The maps, in order.
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
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Numbers a head.
    pub head_size: usize,
    /// Queries, keys and values.
    pub projections: Projections,
    /// Norm of each head of the queries, before positions are applied.
    pub query_norm: Option<Norm>,
    /// The same for keys.
    pub key_norm: Option<Norm>,
    /// Rotary positions of queries and keys.
    pub rope: Option<Rope>,
    /// Factor of the products of queries and keys.
    pub scale: f32,
    /// Back to the residual stream.
    pub output: Slot,
}

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// GELU, approximated by tanh.
    GeluTanh,
}

/// A feed-forward network: `down(activation(gate x) · up x)`, or without a gate `down(activation(up x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// The gate, where there is one.
    pub gate: Option<Slot>,
    /// What is gated.
    pub up: Slot,
    /// Back to the residual stream.
    pub down: Slot,
    /// The function.
    pub activation: Activation,
}

/// What a sublayer computes.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "plain data, a few of them a block")]
pub enum Body {
    /// Reads earlier positions.
    Attention(Attention),
    /// Reads one position.
    FeedForward(FeedForward),
}

/// `x + body(before(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sublayer {
    /// Norm of what the body reads.
    pub before: Option<Norm>,
    /// The body.
    pub body: Body,
}

/// One block: sublayers, each added to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// In order of computation.
    pub sublayers: Vec<Sublayer>,
}

/// The maps of a block that read one activation: what is calibrated together.
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// The maps.
    pub slots: Vec<&'a Slot>,
    /// Whether their output is added to the residual stream.
    pub residual: bool,
}

impl Body {
    /// The stages of a body, in order of computation; the last writes to the residual stream.
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
    /// The block's stages, in order of computation; [`crate::Block`] runs them in this order.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.body.stages()).collect()
    }

    /// Every linear map, in order of computation.
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

/// What stands before the first block.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// A row for each token, `vocabulary × hidden`.
    pub tokens: Slot,
    /// A row for each position, `context × hidden`, added to the token's.
    pub positions: Option<Slot>,
}

/// What stands after the last block.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSpec {
    /// Norm before the head.
    pub norm: Norm,
    /// The head, `vocabulary × hidden`; `None` where the embedding serves (tied).
    pub head: Option<Slot>,
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
    /// Before the first block.
    pub embedding: EmbeddingSpec,
    /// The blocks, first to last.
    pub blocks: Vec<BlockSpec>,
    /// After the last block.
    pub output: OutputSpec,
}

impl Spec {
    /// Every matrix in order of computation, embedding first, head last.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let embedding = std::iter::once(&self.embedding.tokens).chain(&self.embedding.positions);
        embedding.chain(self.blocks.iter().flat_map(BlockSpec::slots)).chain(&self.output.head)
    }

    /// Every vector of a norm, in order of computation.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorSlot> {
        let norms = self.blocks.iter().flat_map(BlockSpec::norms).chain([&self.output.norm]);
        norms.flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias))
    }

    /// The map that gives logits.
    pub fn head(&self) -> &Slot {
        self.output.head.as_ref().unwrap_or(&self.embedding.tokens)
    }

    /// Every attention, first to last.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().flat_map(BlockSpec::attentions)
    }

    /// Every feed-forward network, first to last.
    pub fn feed_forwards(&self) -> impl Iterator<Item = &FeedForward> {
        self.blocks.iter().flat_map(BlockSpec::feed_forwards)
    }

    /// The different rotary embeddings, in order of first use.
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
