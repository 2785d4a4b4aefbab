//! Errors of loading and running a model.

use crate::{SamplerError, TemplateError, TokenizerError};
use std::path::PathBuf;

/// An error of a model, with the path and the tensor or key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the checkpoint file.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// An invalid shape.
    #[error("{path}: {source}")]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The cause.
        source: kvant_core::Error,
    },
    /// A matrix that no kernel supports.
    #[error("{path}: tensor {tensor}: {source}")]
    Kernel {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The cause.
        source: kvant_kernels::Error,
    },
    /// The memory pool has no room for the states of the sequences.
    #[error("{source}; fewer or shorter sequences, or a larger pool")]
    States {
        /// The cause.
        source: kvant_kernels::Error,
    },
    /// An architecture that kvant does not support.
    #[error("{path}: architecture {found:?} is not known; this version reads: {known}")]
    Architecture {
        /// The checkpoint.
        path: PathBuf,
        /// The architecture's name in the checkpoint.
        found: String,
        /// The supported names.
        known: String,
    },
    /// A family that kvant does not support, although its name is known.
    #[error("{path}: {family} ({found:?}) is not built yet: it needs {missing}")]
    Unsupported {
        /// The checkpoint.
        path: PathBuf,
        /// The architecture's name in the checkpoint.
        found: String,
        /// The family's usual name.
        family: &'static str,
        /// A part of the network that kvant does not compute.
        missing: &'static str,
    },
    /// A model of text and images.
    #[error(
        "{path}: {found:?} is a model of text and images, which this version does not read; it reads: {known}"
    )]
    Vision {
        /// The checkpoint.
        path: PathBuf,
        /// The architecture's name in the checkpoint.
        found: String,
        /// The supported names.
        known: String,
    },
    /// A setting that is missing, has a wrong type, or has a value that kvant does not support.
    #[error("{path}: {key}: expected {expected}, found {found}")]
    Setting {
        /// The checkpoint.
        path: PathBuf,
        /// The key in `config.json` or in the GGUF metadata.
        key: String,
        /// The values that kvant supports.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A tensor whose shape contradicts the settings.
    #[error("{path}: tensor {tensor}: expected shape {expected}, found {found}")]
    TensorShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// The shape that follows from the settings.
        expected: String,
        /// The shape in the file.
        found: String,
    },
    /// An expert's tensor in another format than the other experts' tensors.
    #[error("{path}: tensor {tensor} has format {found}, the tensors of the other experts have {expected}")]
    TensorFormat {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// The format of the first expert's tensor.
        expected: &'static str,
        /// The format of this tensor.
        found: &'static str,
    },
    /// A tensor of the architecture that the file does not have.
    #[error("{path}: tensor {tensor} is missing; the {architecture} architecture needs it")]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// The family.
        architecture: &'static str,
    },
    /// A tensor that the architecture does not use. Results without it would be wrong.
    #[error("{path}: tensor {tensor} has no place in the {architecture} architecture")]
    UnknownTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The family.
        architecture: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token id.
        token: u32,
        /// The number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// More tokens than fit the context.
    #[error("{needed} tokens don't fit the context of {context}")]
    Context {
        /// The tokens that the context would have to hold.
        needed: usize,
        /// The context's length.
        context: usize,
    },
    /// A network without an output head.
    #[error("the {architecture} architecture is an encoder: it gives vectors of texts, and no logits")]
    NoLogits {
        /// The family.
        architecture: &'static str,
    },
    /// More tokens for a text of an encoder that was already run.
    #[error("the {architecture} architecture reads whole texts: a sequence that has positions cannot grow")]
    NotCausal {
        /// The family.
        architecture: &'static str,
    },
    /// An error of the tokenizer.
    #[error("{0}")]
    Tokenizer(#[from] TokenizerError),
    /// An error of the chat template.
    #[error("{0}")]
    Template(#[from] TemplateError),
    /// An error of the sampler.
    #[error("{0}")]
    Sampler(#[from] SamplerError),
}
