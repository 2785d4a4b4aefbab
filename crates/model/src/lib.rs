//! Language models: the description of a network, the forward pass, the tokenizer, the chat template and the sampler.
//!
//! A [`Spec`] is plain data. It holds everything that determines a network's output.
//! An architecture (`arch/`, one file per family) builds it from a checkpoint's settings. [`Weights`] returns the
//! checkpoint's tensors under canonical (GGUF) names and in GGUF layout. [`Transformer`] runs the Spec on them.
//!
//! Invariant: everything above [`Weights`] sees GGUF's names, row order and rotary layout, with any naming scheme of
//! the checkpoint. Not in this crate: quantization (`kvant-quant`), evaluation (`kvant-eval`) and the scheduling of
//! sequences (the server).

mod answer_text;
mod arch;
mod attention;
mod backward;
mod block;
mod buffers;
mod chat_template;
mod continuation;
mod delta_net;
mod embedding;
mod encode;
mod error;
mod expert_rows;
mod experts;
pub mod export;
mod feed_forward;
mod generate;
mod layer_embedding;
mod layer_state;
mod linear;
mod norm;
mod op_count;
mod positions;
mod rope;
mod sampler;
mod sequence;
mod short_convolution;
mod source;
mod spec;
mod step;
mod stream;
mod tokenizer;
mod transformer;
mod weights;

pub use answer_text::AnswerText;
pub use arch::{ARCHITECTURES, Architecture};
pub use backward::GradientSink;
pub use block::Block;
pub use chat_template::{ChatTemplate, Conversation, Ending, LocalTime, Message, Rendering, TemplateError};
pub use continuation::continue_together;
pub use embedding::Embedding;
pub use error::Error;
pub use experts::Routing;
pub use generate::{Answer, Finish, generate, read_prompt};
pub use kvant_kernels::ops::RopeLayout;
pub use linear::load_matrix;
pub use norm::LoadedNorm;
pub use op_count::OpCount;
pub use positions::Positions;
pub use rope::{Rope, RopeScaling};
pub use sampler::{
    Dry, DynamicTemperature, LogProbabilities, Mirostat, Sampler, SamplerError, Sampling, TokenMask, Xtc,
};
pub use sequence::{Sequence, Snapshot, StatePool};
pub use source::Source;
pub use spec::{
    Activation, Attention, BlockSpec, Body, ConvolutionSlot, DeltaNet, EmbeddingSpec, Expansion, Experts,
    FeedForward, Head, HeadScalars, LayerEmbeddings, LayerGate, Norm, NormKind, OutputSpec, Pooling,
    Projections, Scoring, ShortConvolution, Slot, Span, Spec, Stage, StageOutput, Sublayer, TextVector,
    VectorSlot,
};
pub use step::{Part, Want};
pub use tokenizer::{
    Kind, PreTokenizer, Special, TextStream, TokenKind, Tokenizer, TokenizerError, Vocabulary,
};
pub use transformer::Transformer;
pub use weights::{Entry, Weights, experts};
