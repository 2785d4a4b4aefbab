//! What can be wrong between a checkpoint and an answer.

use crate::{SamplerError, TemplateError, TokenizerError};
use std::path::PathBuf;

/// A fault of a model, with its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// A shape that cannot be.
    #[error("{path}: {source}")]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        source: kvant_core::Error,
    },
    /// A matrix that no kernel takes.
    #[error("{path}: tensor {tensor}: {source}")]
    Kernel {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        source: kvant_kernels::Error,
    },
    /// A cache that heads don't fit.
    #[error(transparent)]
    KvFormat {
        /// What is wrong.
        source: kvant_kernels::Error,
    },
    /// States of sequences that a pool has no room for.
    #[error("{source}; fewer or shorter sequences, or a larger pool")]
    States {
        /// What is wrong.
        source: kvant_kernels::Error,
    },
    /// A family that kvant does not know.
    #[error("{path}: architecture {found:?} is not known; this version reads: {known}")]
    Architecture {
        /// The checkpoint.
        path: PathBuf,
        /// What it calls itself.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// A setting that is missing, of another type, or outside what this program computes.
    #[error("{path}: {key}: expected {expected}, found {found}")]
    Setting {
        /// The checkpoint.
        path: PathBuf,
        /// The key in `config.json` or in the GGUF metadata.
        key: String,
        /// What the program needs.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A tensor whose shape contradicts the settings.
    #[error("{path}: tensor {tensor}: expected shape {expected}, found {found}")]
    TensorShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor, in the checkpoint's own naming.
        tensor: String,
        /// The shape that the settings ask for.
        expected: String,
        /// The shape in the file.
        found: String,
    },
    /// A tensor that the architecture needs and the file lacks.
    #[error("{path}: tensor {tensor} is missing; the {architecture} architecture needs it")]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor, in the checkpoint's own naming.
        tensor: String,
        /// The family.
        architecture: &'static str,
    },
    /// A tensor that the architecture has no place for: computing without it would be wrong.
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
        /// The id.
        token: u32,
        /// How many tokens there are.
        vocabulary: usize,
    },
    /// More tokens than the context holds.
    #[error("{needed} tokens don't fit the context of {context}")]
    Context {
        /// Tokens asked for.
        needed: usize,
        /// The context's length.
        context: usize,
    },
    /// The tokenizer.
    #[error("{0}")]
    Tokenizer(#[from] TokenizerError),
    /// The chat template.
    #[error("{0}")]
    Template(#[from] TemplateError),
    /// The sampler.
    #[error("{0}")]
    Sampler(#[from] SamplerError),
}
