//! Errors of jobs.

use std::path::{Path, PathBuf};

/// An error of a job, with its location.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of a file.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// An error of a model.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// An error of a tokenizer in a separate file. The error names that file.
    #[error(transparent)]
    Tokenizer(#[from] kvant_model::TokenizerError),
    /// An error of a tokenizer inside a model's file.
    #[error("{path}: {source}")]
    TokenizerOf {
        /// The model.
        path: PathBuf,
        /// The cause.
        source: Box<kvant_model::TokenizerError>,
    },
    /// An error of a chat template.
    #[error(transparent)]
    Template(#[from] kvant_model::TemplateError),
    /// A sampling setting outside its range, or logits from which no token can be sampled.
    #[error(transparent)]
    Sampler(#[from] kvant_model::SamplerError),
    /// An error of quantization.
    #[error(transparent)]
    Quant(#[from] kvant_quant::Error),
    /// An error of evaluation.
    #[error(transparent)]
    Eval(#[from] kvant_eval::Error),
    /// An option with an invalid value, or an option that conflicts with other options.
    #[error("{option}: {reason}")]
    Option {
        /// The option as on the command line, with its value if the value is wrong.
        option: String,
        /// The reason, and the allowed values.
        reason: String,
    },
    /// A feature that is not implemented yet.
    #[error("{what} {} not built yet{hint}", if *plural { "are" } else { "is" })]
    NotBuilt {
        /// The requested feature.
        what: String,
        /// True if `what` is a plural.
        plural: bool,
        /// An alternative for the user; empty if there is no alternative.
        hint: &'static str,
    },
    /// A job that needs logits, with a model that has none.
    #[error("{path}: this model gives vectors of texts and writes no text; `kvant embed` runs it")]
    Encoder {
        /// The model.
        path: PathBuf,
    },
    /// A path that does not exist.
    #[error("{path}: no such file or folder")]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// A model without a tokenizer.
    #[error(
        "{path}: the model has no tokenizer; a Hugging Face folder needs tokenizer.json, tokenizer.model, or vocab.json \
         with merges.txt; `logits --tokens` needs none"
    )]
    NoTokenizer {
        /// The model.
        path: PathBuf,
    },
    /// A model without a chat template.
    #[error("{path}: the model has no chat template; `kvant run` takes raw text")]
    NoTemplate {
        /// The model.
        path: PathBuf,
    },
    /// Two models with different tokenizers, so that their logits cannot be compared.
    #[error(
        "{reference} and {model} have different tokenizers; their logits don't belong to the same tokens: {difference}"
    )]
    DifferentTokenizers {
        /// The reference.
        reference: PathBuf,
        /// The model.
        model: PathBuf,
        /// The first difference.
        difference: String,
    },
    /// A text that is not UTF-8.
    #[error("{path}: not UTF-8 at byte {at}")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first invalid byte.
        at: usize,
    },
    /// A prompt that is longer than the context.
    #[error("the prompt has {tokens} tokens, the context {context}; raise --ctx")]
    LongPrompt {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A job that needs more memory than the limit.
    #[error(
        "--memory {}: the method {method} needs up to {needed} bytes ({}) for this model; nothing was done; allow that \
         much, or leave out what the model writes itself (--own-tokens 0), or take a method that needs less (rtn, imatrix)",
        kvant_report::size(*allowed), kvant_report::size(*needed)
    )]
    Memory {
        /// The limit, in bytes.
        allowed: u64,
        /// Upper bound of the bytes that the job needs.
        needed: u64,
        /// The method.
        method: &'static str,
    },
    /// A budget that is smaller than the size of the metadata.
    #[error(
        "--bytes {}: tokenizer and other metadata alone take {}",
        kvant_report::size(*budget), kvant_report::size(*metadata)
    )]
    Budget {
        /// Bytes of the budget.
        budget: u64,
        /// Bytes of metadata.
        metadata: u64,
    },
    /// A result that cannot be serialized.
    #[error("the result cannot be written: {0}")]
    Result(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The separate process that writes the sample of a file has failed.
    #[error("{path}: a sample: {reason}")]
    Sample {
        /// The file.
        path: PathBuf,
        /// The failed operation, with its cause.
        reason: String,
    },
    /// The user stopped the job.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Creates an error of an option.
    pub(crate) fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Option { option: option.into(), reason: reason.into() }
    }

    /// Creates an error of the file system at `path`. `doing` names the failed operation.
    pub fn io(path: &Path, doing: &'static str, source: std::io::Error) -> Self {
        kvant_io::Error::Io { path: path.into(), doing, source }.into()
    }

    /// Returns true if the user stopped the job.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Quant(kvant_quant::Error::Interrupted)
                | Self::Eval(kvant_eval::Error::Interrupted)
        )
    }

    /// Returns true for a wrong usage: the job cannot run with these options.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Option { .. } | Self::NotBuilt { .. } | Self::Io(kvant_io::Error::OutputName { .. }) => {
                true
            }
            Self::Sampler(error) | Self::Model(kvant_model::Error::Sampler(error)) => error.is_setting(),
            _ => false,
        }
    }
}
