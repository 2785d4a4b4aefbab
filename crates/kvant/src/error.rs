//! What can go wrong in a job.

use std::path::{Path, PathBuf};

/// A fault of a job, with its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// A model.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// A tokenizer, whose own file the error names.
    #[error(transparent)]
    Tokenizer(#[from] kvant_model::TokenizerError),
    /// A tokenizer inside a model's file.
    #[error("{path}: {source}")]
    TokenizerOf {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: Box<kvant_model::TokenizerError>,
    },
    /// A chat template.
    #[error(transparent)]
    Template(#[from] kvant_model::TemplateError),
    /// Logits that nothing can be chosen from.
    #[error(transparent)]
    Sampler(#[from] kvant_model::SamplerError),
    /// Quantization.
    #[error(transparent)]
    Quant(#[from] kvant_quant::Error),
    /// Evaluation.
    #[error(transparent)]
    Eval(#[from] kvant_eval::Error),
    /// An option with a value that it cannot have, or that does not go with the others.
    #[error("{option}: {reason}")]
    Option {
        /// The option as the command line spells it, with its value where that is at fault.
        option: String,
        /// Why, and what it may be.
        reason: String,
    },
    /// Something that no release does yet.
    #[error("{what} {} not built yet{hint}", if *plural { "are" } else { "is" })]
    NotBuilt {
        /// What was asked for.
        what: String,
        /// Whether that is a plural.
        plural: bool,
        /// What to do instead.
        hint: &'static str,
    },
    /// A path that names nothing.
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
    /// Two models whose logits don't belong to the same tokens.
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
        /// Where.
        at: usize,
    },
    /// A prompt that is longer than the context.
    #[error("the prompt has {tokens} tokens, the context {context}; raise --ctx")]
    LongPrompt {
        /// Its tokens.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// A job that needs more memory than it may take.
    #[error(
        "--memory {}: the method {method} needs up to {needed} bytes ({}) for this model; nothing was done; allow that \
         much, or leave out what the model writes itself (--own-tokens 0), or take a method that needs less (rtn, imatrix)",
        kvant_report::size(*allowed), kvant_report::size(*needed)
    )]
    Memory {
        /// Bytes that it may take.
        allowed: u64,
        /// Bytes that it takes at most.
        needed: u64,
        /// The method.
        method: &'static str,
    },
    /// A budget that metadata alone exceed.
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
    /// A result that cannot be written down.
    #[error("the result cannot be written: {0}")]
    Result(String),
    /// A part of the job that another program does, and that failed.
    #[error("{0}")]
    Outside(String),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An option at fault.
    pub(crate) fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Option { option: option.into(), reason: reason.into() }
    }

    /// An error of the file system at `path`, while `doing` something.
    pub(crate) fn io(path: &Path, doing: &'static str, source: std::io::Error) -> Self {
        kvant_io::Error::Io { path: path.into(), doing, source }.into()
    }

    /// Whether the user stopped the job.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Quant(kvant_quant::Error::Interrupted)
                | Self::Eval(kvant_eval::Error::Interrupted)
        )
    }

    /// Whether what was asked for cannot be done at all, whatever the files hold.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Option { .. } | Self::NotBuilt { .. } | Self::Io(kvant_io::Error::OutputName { .. })
        )
    }
}
