//! What a language model is: its description, a forward pass, a tokenizer, a chat template and a sampler.
//!
//! A [`Spec`] is plain data: everything that decides a network's output.
//! An architecture (`arch/`, one file a family) makes it from a checkpoint's own words; [`Weights`] hands out the
//! checkpoint's tensors under canonical (GGUF) names and layout; [`Transformer`] runs the Spec on them.
//!
//! Invariant: whatever naming a checkpoint uses, everything above [`Weights`] sees GGUF's names, row order and
//! rotary layout. Left out on purpose: how weights are made small (`kvant-quant`), how good they are
//! (`kvant-eval`), which sequence runs when (the server's).

mod arch;
mod backward;
mod block;
mod buffers;
mod chat_template;
mod continuation;
mod embedding;
mod error;
pub mod export;
mod generate;
mod linear;
mod norm;
mod op_count;
mod positions;
mod rope;
mod sampler;
mod sequence;
mod spec;
mod step;
mod tokenizer;
mod transformer;
mod weights;

pub use arch::{ARCHITECTURES, Architecture};
pub use backward::GradientSink;
pub use block::Block;
pub use chat_template::{ChatTemplate, Conversation, Ending, LocalTime, Message, Rendering, TemplateError};
pub use continuation::continue_together;
pub use embedding::Embedding;
pub use error::Error;
pub use generate::{Answer, Finish, generate};
pub use kvant_kernels::ops::RopeLayout;
pub use linear::load_matrix;
pub use norm::LoadedNorm;
pub use op_count::OpCount;
pub use positions::Positions;
pub use rope::{Rope, RopeScaling};
pub use sampler::{LogProbabilities, Sampler, SamplerError, Sampling, TokenMask};
pub use sequence::{Sequence, Snapshot, StatePool};
pub use spec::{
    Activation, Attention, BlockSpec, Body, EmbeddingSpec, FeedForward, Norm, NormKind, OutputSpec,
    Projections, Slot, Spec, Stage, Sublayer, VectorSlot,
};
pub use step::{Part, Want};
pub use tokenizer::{
    Kind, PreTokenizer, Special, TextStream, TokenKind, Tokenizer, TokenizerError, Vocabulary,
};
pub use transformer::Transformer;
pub use weights::{Entry, Source, Weights};
