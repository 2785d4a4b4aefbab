//! The description of a network as plain data: everything that determines its output.
//!
//! The forward pass, the backward pass, calibration, operation counts and memory estimates all read this description.
//! Names are those of GGUF; a [`Slot`]'s name has no `.weight` suffix. The linear maps that read the same activation
//! form a [`Stage`] (queries, keys and values; gate and up). Calibration gathers the statistics of that activation
//! once.

mod ends;

use crate::Rope;
pub use ends::{EmbeddingSpec, Head, OutputSpec, Pooling, TextVector};

/// One linear map: `rows × columns`, `y = W x (+ b)`; or the maps of all experts, stored as one tensor.
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
    /// The number of experts, each with a map of this size; `None` for a single map.
    pub experts: Option<usize>,
}

impl Slot {
    /// The weight's tensor name.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The weight's dimensions, outermost first: (experts,) rows, columns.
    pub fn dimensions(&self) -> Vec<usize> {
        self.experts.into_iter().chain([self.rows, self.columns]).collect()
    }

    /// The bias's dimensions, outermost first: (experts,) rows.
    pub fn bias_dimensions(&self) -> Vec<usize> {
        self.experts.into_iter().chain([self.rows]).collect()
    }

    /// The number of rows of the whole tensor.
    pub fn all_rows(&self) -> usize {
        self.rows * self.experts.unwrap_or(1)
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

/// A norm of vectors that have the length of its weight. A row of activations can hold several such vectors, for example
/// one for each head.
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

/// The positions that an attention reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All positions.
    Full,
    /// This number of positions: the current position and the positions directly before it. Above 0. An attention that
    /// is not causal also reads as many positions after the current position as before it.
    Window(usize),
}

/// Self-attention with grouped queries.
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
    /// Norm of each head of the queries, or of all heads together, before the rotary embedding.
    pub query_norm: Option<Norm>,
    /// Norm of each head of the keys, or of all heads together, before the rotary embedding.
    pub key_norm: Option<Norm>,
    /// Rotary embedding of queries and keys.
    pub rope: Option<Rope>,
    /// True if a position reads no position after itself.
    pub causal: bool,
    /// The positions that a position reads.
    pub span: Span,
    /// Factor of the dot products of queries and keys: the scores.
    pub scale: f32,
    /// The soft cap c of the scores: a score x becomes c · tanh(x / c). Above 0.
    pub softcap: Option<f32>,
    /// For each query head, one more score, without a key and with a value of zeros.
    pub sinks: Option<VectorSlot>,
    /// The output projection.
    pub output: Slot,
}

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// GELU: x Φ(x), where Φ is the distribution function of the standard normal distribution.
    Gelu,
    /// GELU, approximated by tanh.
    GeluTanh,
}

/// The linear maps that read the input of a feed-forward network.
#[derive(Clone, Debug, PartialEq)]
pub enum Expansion {
    /// activation(up x).
    Plain(Slot),
    /// activation(gate x) · up x.
    Gated {
        /// The gate projection.
        gate: Slot,
        /// The up projection.
        up: Slot,
    },
    /// Like `Gated`, with one map for both; its rows are in the order gate, up.
    FusedGated(Slot),
}

impl Expansion {
    /// The maps, in the order gate, up.
    pub fn slots(&self) -> Vec<&Slot> {
        match self {
            Self::Plain(slot) | Self::FusedGated(slot) => vec![slot],
            Self::Gated { gate, up } => vec![gate, up],
        }
    }
}

/// A feed-forward network: `down(expansion(x))`, or `down(sigmoid(factor x) · expansion(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// The maps that read the input.
    pub expansion: Expansion,
    /// The activation function.
    pub activation: Activation,
    /// A map with one row, for the factor of all that `down` reads.
    pub factor: Option<Slot>,
    /// The down projection.
    pub down: Slot,
}

impl FeedForward {
    /// The maps that read the input.
    fn first_slots(&self) -> Vec<&Slot> {
        self.expansion.slots().into_iter().chain(&self.factor).collect()
    }
}

/// Experts: feed-forward networks of one size, of which each token uses the few with the highest scores.
///
/// With the scores s = router x and the set U of the `used` experts with the highest scores, the result is
/// Σ w(i) · expert(i)(x) over i in U, with w(i) = e^s(i) / Σ e^s(j). The last sum is over U if `normalized` is true,
/// otherwise over all experts. Source: Shazeer et al., Outrageously Large Neural Networks, arXiv 1701.06538, section 2.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// The number of experts.
    pub count: usize,
    /// The number of experts that a token uses.
    pub used: usize,
    /// The map of the scores; one row for each expert.
    pub router: Slot,
    /// True if the factors of the used experts have the sum 1.
    pub normalized: bool,
    /// All experts; each slot holds the maps of all of them.
    pub feed_forward: FeedForward,
}

/// The computation of a sublayer.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "plain data, a few of them a block")]
pub enum Body {
    /// Reads other positions.
    Attention(Attention),
    /// Reads only the current position.
    FeedForward(FeedForward),
    /// Reads only the current position.
    Experts(Experts),
}

/// One sublayer. It adds `scale · after(body(before(x)))` to the residual stream x, and normalizes the sum if it has a
/// norm for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sublayer {
    /// Norm of the body's input.
    pub before: Option<Norm>,
    /// The body.
    pub body: Body,
    /// Norm of the body's result.
    pub after: Option<Norm>,
    /// Factor of the result.
    pub scale: f32,
    /// Norm of the residual stream after the addition, as in BERT.
    pub of_sum: Option<Norm>,
    /// True if the sublayer reads the same residual stream as the previous sublayer of the block, so that both could
    /// run at the same time.
    pub parallel: bool,
}

impl Sublayer {
    /// A sublayer `of_sum(x + body(x))`.
    pub fn post_norm(body: Body, of_sum: Norm) -> Self {
        Self { before: None, body, after: None, scale: 1.0, of_sum: Some(of_sum), parallel: false }
    }

    /// A sublayer `x + body(before(x))`.
    pub fn pre_norm(before: Norm, body: Body) -> Self {
        Self { before: Some(before), body, after: None, scale: 1.0, of_sum: None, parallel: false }
    }

    /// True if the body's result is added to the residual stream, and nothing else changes.
    fn adds_unchanged(&self) -> bool {
        self.after.is_none() && self.scale == 1.0 && self.of_sum.is_none()
    }
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
    /// The effect of their output on the residual stream.
    pub output: StageOutput,
    /// The number of rows of the input for each token: 1, or the number of experts that a token uses.
    pub rows_per_token: usize,
}

impl Stage<'_> {
    /// The number of elements of the input for each token.
    pub fn input_width(&self) -> usize {
        self.rows_per_token * self.slots[0].columns
    }

    /// The number of experts, if the stage has maps of experts.
    pub fn experts(&self) -> Option<usize> {
        self.slots.iter().find_map(|slot| slot.experts)
    }
}

/// The effect of a stage's output on the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageOutput {
    /// None: the output is the input of the next stage of the same sublayer, after elementwise operations or attention.
    Inner,
    /// It is added to the residual stream.
    Added,
    /// It is added to the residual stream after a norm or a factor, or the sum is normalized.
    AddedAfterChange,
}

impl StageOutput {
    /// True if the stage changes the residual stream.
    pub fn changes_residual(self) -> bool {
        self != Self::Inner
    }
}

impl Body {
    fn norms(&self) -> impl Iterator<Item = &Norm> {
        match self {
            Self::Attention(a) => a.query_norm.iter().chain(&a.key_norm),
            Self::FeedForward(_) | Self::Experts(_) => None.iter().chain(&None),
        }
    }
}

impl Sublayer {
    /// The stages, in order of computation. The last stage changes the residual stream.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let (first, last) = match &self.body {
            Body::Attention(a) => (a.projections.slots(), &a.output),
            Body::FeedForward(f) => (f.first_slots(), &f.down),
            Body::Experts(e) => {
                let first = std::iter::once(&e.router).chain(e.feed_forward.first_slots());
                (first.collect(), &e.feed_forward.down)
            }
        };
        let used = match &self.body {
            Body::Experts(experts) => Some(experts.used),
            Body::Attention(_) | Body::FeedForward(_) => None,
        };
        // The factors of the experts change their results.
        let unchanged = self.adds_unchanged() && used.is_none();
        let output = if unchanged { StageOutput::Added } else { StageOutput::AddedAfterChange };
        vec![
            Stage { slots: first, output: StageOutput::Inner, rows_per_token: 1 },
            Stage { slots: vec![last], output, rows_per_token: used.unwrap_or(1) },
        ]
    }
}

impl BlockSpec {
    /// The block's stages, in the order in which [`crate::Block`] runs them.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        self.sublayers.iter().flat_map(Sublayer::stages).collect()
    }

    /// All linear maps, in order of computation.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.stages().into_iter().flat_map(|stage| stage.slots)
    }

    /// The attentions, in order of computation.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::Attention(attention) => Some(attention),
            Body::FeedForward(_) | Body::Experts(_) => None,
        })
    }

    /// The feed-forward networks, in order of computation.
    pub fn feed_forwards(&self) -> impl Iterator<Item = &FeedForward> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::FeedForward(feed_forward) => Some(feed_forward),
            Body::Attention(_) | Body::Experts(_) => None,
        })
    }

    /// The experts, in order of computation.
    pub fn experts(&self) -> impl Iterator<Item = &Experts> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::Experts(experts) => Some(experts),
            Body::Attention(_) | Body::FeedForward(_) => None,
        })
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.sublayers
            .iter()
            .flat_map(|s| s.before.iter().chain(s.body.norms()).chain(&s.after).chain(&s.of_sum))
    }
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
    /// The vector of a text, for networks that are made for it.
    pub text_vector: Option<TextVector>,
}

impl Spec {
    /// All matrices in order of computation: embedding first, head last.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let EmbeddingSpec { tokens, positions, types, .. } = &self.embedding;
        let embedding = std::iter::once(tokens).chain(positions).chain(types);
        let dense = self.text_vector.iter().flat_map(|vector| &vector.dense);
        embedding
            .chain(self.blocks.iter().flat_map(BlockSpec::slots))
            .chain(self.output.head.own())
            .chain(dense)
    }

    /// All vectors other than biases of maps: those of the norms in order of computation, then those of the attentions.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorSlot> {
        let blocks = self.blocks.iter().flat_map(BlockSpec::norms);
        let norms = self.embedding.norm.iter().chain(blocks).chain(&self.output.norm);
        let of_norms = norms.flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias));
        let mut seen = std::collections::HashSet::new();
        // Parallel sublayers can share a norm.
        let of_norms = of_norms.filter(move |vector| seen.insert(&vector.name));
        of_norms.chain(self.attentions().filter_map(|attention| attention.sinks.as_ref()))
    }

    /// The linear map that computes the logits: the output head, or the token embedding if the head is tied. `None` if
    /// the network computes no logits.
    pub fn head(&self) -> Option<&Slot> {
        match &self.output.head {
            Head::None => None,
            Head::Tied => Some(&self.embedding.tokens),
            Head::Own(slot) => Some(slot),
        }
    }

    /// True if a position reads only positions before it, so that a sequence can grow.
    pub fn is_causal(&self) -> bool {
        self.attentions().all(|attention| attention.causal)
    }

    /// All attentions, first to last.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().flat_map(BlockSpec::attentions)
    }

    /// All feed-forward networks, first to last.
    pub fn feed_forwards(&self) -> impl Iterator<Item = &FeedForward> {
        self.blocks.iter().flat_map(BlockSpec::feed_forwards)
    }

    /// All experts, first to last.
    pub fn experts(&self) -> impl Iterator<Item = &Experts> {
        self.blocks.iter().flat_map(BlockSpec::experts)
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
