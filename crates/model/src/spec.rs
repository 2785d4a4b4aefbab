//! The description of a network as plain data: everything that determines its output.
//!
//! The forward pass, the backward pass, calibration, operation counts and memory estimates all read this description.
//! Names are those of GGUF; a [`Slot`]'s name has no `.weight` suffix. The linear maps that read the same activation
//! form a [`Stage`] (queries, keys and values; gate and up). Calibration gathers the statistics of that activation
//! once.

mod attention;
mod delta_net;
mod embedding;
mod feed_forward;
mod output;
mod short_convolution;

use crate::Rope;
use crate::stream::StreamLayout;
pub use attention::{Attention, Projections, Span};
pub use delta_net::{DeltaNet, HeadScalars};
pub use embedding::{EmbeddingSpec, LayerEmbeddings, LayerGate};
pub use feed_forward::{Activation, Expansion, Experts, FeedForward, Scoring};
pub use output::{Head, OutputSpec, Pooling, TextVector};
pub use short_convolution::{ConvolutionSlot, ShortConvolution};

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

/// The computation of a sublayer.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Reads other positions.
    Attention(Attention),
    /// Reads the current position and a state of the earlier ones.
    DeltaNet(DeltaNet),
    /// Reads the current position and the inputs of the positions directly before it.
    ShortConvolution(ShortConvolution),
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
            Self::ShortConvolution(_) | Self::FeedForward(_) | Self::LayerGate(_) => Vec::new(),
        }
    }

    /// The vectors other than those of norms.
    fn vectors(&self) -> Vec<&VectorSlot> {
        match self {
            Self::Attention(a) => a.sinks.iter().collect(),
            Self::DeltaNet(d) => vec![&d.decay, &d.step_bias],
            Self::Experts(e) => e.correction().into_iter().chain(&e.result_scales).collect(),
            Self::ShortConvolution(_) | Self::FeedForward(_) | Self::LayerGate(_) => Vec::new(),
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
            Body::ShortConvolution(c) => (vec![vec![&c.input]], &c.output),
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

    /// The convolutions of recurrent layers, in order of computation.
    pub fn convolutions(&self) -> impl Iterator<Item = &ConvolutionSlot> {
        self.sublayers.iter().filter_map(|sublayer| match &sublayer.body {
            Body::DeltaNet(delta_net) => Some(&delta_net.convolution),
            Body::ShortConvolution(convolution) => Some(&convolution.convolution),
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

    /// The convolutions of recurrent layers, first to last.
    pub fn convolutions(&self) -> impl Iterator<Item = &ConvolutionSlot> {
        self.blocks.iter().flat_map(BlockSpec::convolutions)
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
