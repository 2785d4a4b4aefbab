//! The description of a network as plain data: everything that determines its output.
//!
//! The forward pass, the backward pass, calibration, operation counts and memory estimates all read this description.
//! Names are those of GGUF; a [`Slot`]'s name has no `.weight` suffix. The linear maps that read the same activation
//! form a [`Stage`] (queries, keys and values; gate and up). Calibration gathers the statistics of that activation
//! once.

mod delta_net;

use crate::Rope;
use crate::stream::StreamLayout;
pub use delta_net::{ConvolutionSlot, DeltaNet, HeadScalars};
use kvant_kernels::{Backend, ClampedSwiglu, ops};

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
    /// The values are the results of the key map, without the norm and the rotation of the keys.
    KeysAsValues {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// Keys and values, `kv_heads × head_size` rows.
        key: Slot,
    },
    /// Only queries. The keys and values are those of the only attention of an earlier block.
    Queries {
        /// Queries, `heads × head_size` rows.
        query: Slot,
        /// The index of the earlier block, whose keys and values have the same sizes.
        states_of: usize,
    },
}

impl Projections {
    /// The maps, in the order queries, keys, values.
    pub fn slots(&self) -> Vec<&Slot> {
        match self {
            Self::Separate { query, key, value } => vec![query, key, value],
            Self::Fused(slot) => vec![slot],
            Self::KeysAsValues { query, key } => vec![query, key],
            Self::Queries { query, .. } => vec![query],
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
    /// True if the map of the queries has, for each head, the rows of the query and then as many rows of a gate. The
    /// result of the head is multiplied by sigmoid(gate).
    pub gated: bool,
    /// Norm of each head of the queries, or of all heads together, before the rotary embedding.
    pub query_norm: Option<Norm>,
    /// Norm of each head of the keys, or of all heads together, before the rotary embedding.
    pub key_norm: Option<Norm>,
    /// Norm of each head of the values by its root mean square, without a weight: the number that is added to the mean
    /// square.
    pub value_norm: Option<f32>,
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

impl Attention {
    /// The index of the earlier block whose keys and values this attention reads; `None` if it has its own.
    pub fn states_of(&self) -> Option<usize> {
        match self.projections {
            Projections::Queries { states_of, .. } => Some(states_of),
            _ => None,
        }
    }
}

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// GELU: x Φ(x), where Φ is the distribution function of the standard normal distribution.
    Gelu,
    /// GELU, approximated by tanh.
    GeluTanh,
    /// SwiGLU with limits. It replaces the whole product of [`Expansion::Gated`]: the up projection is clamped, too.
    ClampedSwiglu(ClampedSwiglu),
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

/// The strengths of experts, from their scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Scoring {
    /// The strengths p(i) = e^s(i) / Σ e^s(j), with the sum over all experts. The strongest experts are used.
    Softmax,
    /// The strengths p(i) = 1 / (1 + e^−s(i)). The experts with the largest p(i) + c(i) are used. The correction c balances
    /// the load of the experts. It changes only the choice, and has no gradient.
    Sigmoid {
        /// The correction, one number for each expert.
        correction: VectorSlot,
    },
}

/// Experts: feed-forward networks of one size, of which each token uses few.
///
/// With the scores s = router x, the strengths p of [`Scoring`], and the set U of the `used` experts, the result is
/// Σ w(i) · expert(i)(x) over i in U. The factors are w(i) = `scale` · p(i) / Σ p(j) with the sum over U if `normalized` is
/// true, otherwise w(i) = `scale` · p(i). Source: Shazeer et al., Outrageously Large Neural Networks, arXiv 1701.06538,
/// section 2; DeepSeek-AI, DeepSeek-V3, arXiv 2412.19437, section 2.1.2.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// The number of experts.
    pub count: usize,
    /// The number of experts that a token uses.
    pub used: usize,
    /// The map of the scores; one row for each expert.
    pub router: Slot,
    /// Norm of the residual stream for the router; `None` if the router reads the same input as the experts.
    pub router_norm: Option<Norm>,
    /// Factor of the norm's result.
    pub router_scale: f32,
    /// The strengths of the experts, and the choice of the used experts.
    pub scoring: Scoring,
    /// True if the strengths of the used experts are divided by their sum.
    pub normalized: bool,
    /// Factor of all results.
    pub scale: f32,
    /// For each expert, one more factor of its result.
    pub result_scales: Option<VectorSlot>,
    /// All experts; each slot holds the maps of all of them.
    pub feed_forward: FeedForward,
}

impl Experts {
    fn correction(&self) -> Option<&VectorSlot> {
        match &self.scoring {
            Scoring::Softmax => None,
            Scoring::Sigmoid { correction } => Some(correction),
        }
    }
}

/// Adds a part of a token's layer embedding ([`LayerEmbeddings`]): `output(activation(gate x) · embedding)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGate {
    /// The map of the gate, `width × hidden`.
    pub gate: Slot,
    /// The activation function.
    pub activation: Activation,
    /// The output projection, `hidden × width`.
    pub output: Slot,
}

/// The computation of a sublayer.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Reads other positions.
    Attention(Attention),
    /// Reads the current position and a state of the earlier ones.
    DeltaNet(DeltaNet),
    /// Reads only the current position.
    FeedForward(FeedForward),
    /// Reads only the current position.
    Experts(Experts),
    /// Reads only the current position, and its layer embedding for this block.
    LayerGate(LayerGate),
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
    pub residual_norm: Option<Norm>,
    /// True if the sublayer reads the same residual stream as the previous sublayer of the block, so that both could
    /// run at the same time.
    pub parallel: bool,
    /// Norm of the sum of this result and that of the previous sublayer, both after their own norms. The previous
    /// sublayer then adds nothing to the residual stream itself.
    pub sum_norm: Option<Norm>,
}

impl Sublayer {
    /// A sublayer `residual_norm(x + body(x))`.
    pub fn post_norm(body: Body, residual_norm: Norm) -> Self {
        Self { residual_norm: Some(residual_norm), ..Self::plain(body) }
    }

    /// A sublayer `x + body(x)`.
    fn plain(body: Body) -> Self {
        Self {
            before: None,
            body,
            after: None,
            scale: 1.0,
            residual_norm: None,
            parallel: false,
            sum_norm: None,
        }
    }

    /// A sublayer `x + body(before(x))`.
    pub fn pre_norm(before: Norm, body: Body) -> Self {
        Self { before: Some(before), ..Self::plain(body) }
    }

    /// True if the body's result is added to the residual stream, and nothing else changes.
    fn adds_unchanged(&self) -> bool {
        let norms = [&self.after, &self.sum_norm, &self.residual_norm];
        norms.iter().all(|norm| norm.is_none()) && self.scale == 1.0
    }
}

/// One block: sublayers, whose results are added to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// The sublayers, in order of computation.
    pub sublayers: Vec<Sublayer>,
    /// Factor of the residual stream after the last sublayer: one number.
    pub scale: Option<VectorSlot>,
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

impl Body {
    fn norms(&self) -> Vec<&Norm> {
        match self {
            Self::Attention(a) => a.query_norm.iter().chain(&a.key_norm).collect(),
            Self::DeltaNet(d) => vec![&d.norm],
            Self::Experts(e) => e.router_norm.iter().collect(),
            Self::FeedForward(_) | Self::LayerGate(_) => Vec::new(),
        }
    }

    /// The vectors other than those of norms.
    fn vectors(&self) -> Vec<&VectorSlot> {
        match self {
            Self::Attention(a) => a.sinks.iter().collect(),
            Self::DeltaNet(d) => vec![&d.decay, &d.step_bias],
            Self::Experts(e) => e.correction().into_iter().chain(&e.result_scales).collect(),
            Self::FeedForward(_) | Self::LayerGate(_) => Vec::new(),
        }
    }
}

impl Sublayer {
    /// The stages, in order of computation. The last stage changes the residual stream.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        // The maps of the stages before the last stage.
        let (first, last) = match &self.body {
            Body::Attention(a) => (vec![a.projections.slots()], &a.output),
            Body::DeltaNet(d) => (vec![d.first_slots()], &d.output),
            Body::FeedForward(f) => (vec![f.first_slots()], &f.down),
            Body::LayerGate(l) => (vec![vec![&l.gate]], &l.output),
            Body::Experts(e) if e.router_norm.is_some() => {
                (vec![vec![&e.router], e.feed_forward.first_slots()], &e.feed_forward.down)
            }
            Body::Experts(e) => {
                let first = std::iter::once(&e.router).chain(e.feed_forward.first_slots());
                (vec![first.collect()], &e.feed_forward.down)
            }
        };
        let used = match &self.body {
            Body::Experts(experts) => Some(experts.used),
            _ => None,
        };
        // The factors of the experts change their results.
        let unchanged = self.adds_unchanged() && used.is_none();
        let output = if unchanged { StageOutput::Added } else { StageOutput::AddedAfterChange };
        let first =
            first.into_iter().map(|slots| Stage { slots, output: StageOutput::Inner, rows_per_token: 1 });
        let last = Stage { slots: vec![last], output, rows_per_token: used.unwrap_or(1) };
        first.chain([last]).collect()
    }
}

impl BlockSpec {
    /// The block's stages, in the order in which [`crate::Block`] runs them.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage> = Vec::new();
        for sublayer in &self.sublayers {
            // The norm of the sum changes the result of the previous sublayer, too.
            if let (Some(last), Some(_)) = (stages.last_mut(), &sublayer.sum_norm) {
                last.output = StageOutput::AddedAfterChange;
            }
            stages.extend(sublayer.stages());
        }
        if let (Some(last), Some(_)) = (stages.last_mut(), &self.scale) {
            last.output = StageOutput::AddedAfterChange;
        }
        stages
    }

    /// All linear maps, in order of computation.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.stages().into_iter().flat_map(|stage| stage.slots)
    }

    /// The attentions, in order of computation.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::Attention(attention) => Some(attention),
            _ => None,
        })
    }

    /// The gated delta nets, in order of computation.
    pub fn delta_nets(&self) -> impl Iterator<Item = &DeltaNet> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::DeltaNet(delta_net) => Some(delta_net),
            _ => None,
        })
    }

    /// The feed-forward networks, in order of computation.
    pub fn feed_forwards(&self) -> impl Iterator<Item = &FeedForward> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::FeedForward(feed_forward) => Some(feed_forward),
            _ => None,
        })
    }

    /// The experts, in order of computation.
    pub fn experts(&self) -> impl Iterator<Item = &Experts> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::Experts(experts) => Some(experts),
            _ => None,
        })
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.sublayers.iter().flat_map(|s| {
            let after = s.after.iter().chain(&s.sum_norm).chain(&s.residual_norm);
            s.before.iter().chain(s.body.norms()).chain(after)
        })
    }
}

/// The embedding, before the first block.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// One row per token, `vocabulary × hidden`.
    pub tokens: Slot,
    /// Factor of the token's row.
    pub scale: f32,
    /// One row per position, `context × hidden`, which is added to the token's row.
    pub positions: Option<Slot>,
    /// One row per kind of text, of which row 0 is added to each token's row: BERT's token types.
    pub types: Option<Slot>,
    /// Norm of the sum.
    pub norm: Option<Norm>,
    /// The layer embeddings.
    pub layers: Option<LayerEmbeddings>,
}

impl EmbeddingSpec {
    /// A table of tokens, without a factor, positions or a norm.
    pub fn of(tokens: Slot) -> Self {
        Self { tokens, scale: 1.0, positions: None, types: None, norm: None, layers: None }
    }
}

/// Layer embeddings: for each token, one vector for each block, which the block's [`LayerGate`] reads. They are
/// `scale · (norm(projection_scale · projection x) + table_scale · row)` with the token's embedding x and its row of a
/// table. Both have one vector for each block, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerEmbeddings {
    /// The length of a vector.
    pub width: usize,
    /// The table, `vocabulary × (blocks × width)`.
    pub tokens: Slot,
    /// Factor of the table's row.
    pub table_scale: f32,
    /// The projection of the embedding, `(blocks × width) × hidden`.
    pub projection: Slot,
    /// Factor of the projection's result.
    pub projection_scale: f32,
    /// Norm of each vector of the projection's result.
    pub norm: Norm,
    /// Factor of the sum.
    pub scale: f32,
}

/// The linear map that computes logits from hidden states.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// No map: the network computes hidden states, but no logits.
    None,
    /// The token embedding.
    Tied,
    /// A map of its own, `vocabulary × hidden`.
    Own(Slot),
}

impl Head {
    /// The map, if it is not the token embedding.
    pub fn own(&self) -> Option<&Slot> {
        match self {
            Self::Own(slot) => Some(slot),
            Self::None | Self::Tied => None,
        }
    }

    /// True if the token embedding is the output head.
    pub fn is_tied(&self) -> bool {
        *self == Self::Tied
    }
}

/// The output norm and the output head, after the last block.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSpec {
    /// Norm of the last residual stream.
    pub norm: Option<Norm>,
    /// The output head.
    pub head: Head,
    /// Factor of the head's result.
    pub scale: f32,
    /// The soft cap c of the logits: a logit x becomes c · tanh(x / c), after the factor. Above 0.
    pub softcap: Option<f32>,
}

impl OutputSpec {
    /// Applies the factor and the soft cap to the head's result.
    pub fn apply(&self, backend: &Backend, logits: &mut [f32]) {
        if self.scale != 1.0 {
            logits.iter_mut().for_each(|x| *x *= self.scale);
        }
        if let Some(cap) = self.softcap {
            ops::softcap(backend, logits, cap);
        }
    }

    /// Replaces the gradient at the logits by the gradient at the head's result. `logits` are the results of
    /// [`OutputSpec::apply`]; without a soft cap they are not read.
    pub fn backward(&self, logits: &[f32], gradient: &mut [f32]) {
        if let Some(cap) = self.softcap {
            for (gradient, logit) in gradient.iter_mut().zip(logits) {
                *gradient *= 1.0 - (logit / cap) * (logit / cap);
            }
        }
        if self.scale != 1.0 {
            gradient.iter_mut().for_each(|x| *x *= self.scale);
        }
    }
}

/// The vector of a text that pooling takes from the hidden states of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token.
    First,
    /// The last token.
    Last,
}

/// The vector of a whole text: `normalize(dense(pooling(hidden states)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextVector {
    /// The pooling.
    pub pooling: Pooling,
    /// Linear maps after the pooling, in order of computation.
    pub dense: Vec<Slot>,
    /// True if the vector is divided by its length.
    pub normalized: bool,
    /// The largest number of tokens of a text. Longer texts are cut.
    pub longest: usize,
}

impl TextVector {
    /// The length of a vector, for a network of width `hidden`.
    pub fn length(&self, hidden: usize) -> usize {
        self.dense.last().map_or(hidden, |map| map.rows)
    }

    /// Returns the input length of a linear map that is not the output length of the map before it, as text.
    pub(crate) fn misfit(&self, hidden: usize) -> Option<String> {
        let widths = std::iter::once(hidden).chain(self.dense.iter().map(|map| map.rows));
        let mut maps = self.dense.iter().zip(widths);
        maps.find(|(map, width)| map.columns != *width).map(|(map, _)| map.columns.to_string())
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
        let EmbeddingSpec { tokens, positions, types, layers, .. } = &self.embedding;
        let layers = layers.iter().flat_map(|layers| [&layers.tokens, &layers.projection]);
        let embedding = std::iter::once(tokens).chain(positions).chain(types).chain(layers);
        let dense = self.text_vector.iter().flat_map(|vector| &vector.dense);
        embedding
            .chain(self.blocks.iter().flat_map(BlockSpec::slots))
            .chain(self.output.head.own())
            .chain(dense)
    }

    /// All vectors other than biases of maps: those of the norms in order of computation, those of the bodies, those of
    /// the blocks.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorSlot> {
        let first = self.embedding.norm.iter().chain(self.embedding.layers.iter().map(|layers| &layers.norm));
        let norms = first.chain(self.blocks.iter().flat_map(BlockSpec::norms)).chain(&self.output.norm);
        let of_norms = norms.flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias));
        let mut seen = std::collections::HashSet::new();
        // Parallel sublayers can share a norm.
        let of_norms = of_norms.filter(move |vector| seen.insert(&vector.name));
        let sublayers = self.blocks.iter().flat_map(|block| &block.sublayers);
        let of_blocks = self.blocks.iter().filter_map(|block| block.scale.as_ref());
        of_norms.chain(sublayers.flat_map(|sublayer| sublayer.body.vectors())).chain(of_blocks)
    }

    /// All gated delta nets, first to last.
    pub fn delta_nets(&self) -> impl Iterator<Item = &DeltaNet> {
        self.blocks.iter().flat_map(BlockSpec::delta_nets)
    }

    /// The number of elements that pass from block to block for each token: those of the residual stream, followed by
    /// those that later blocks read beside it.
    pub fn stream_width(&self) -> usize {
        StreamLayout::of(self).width()
    }

    /// The residual stream of `stream`, tokens × hidden. A stream has [`Spec::stream_width`] elements for each token.
    pub fn residual<'a>(&self, stream: &'a [f32]) -> &'a [f32] {
        StreamLayout::of(self).residual(stream)
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
