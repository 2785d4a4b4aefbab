//! The errors of an evaluation.

/// Error of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// The context is too short. It has no token to score.
    #[error("a context of {context} tokens leaves nothing to score; at least 4 are needed")]
    ShortContext {
        /// Number of tokens per context.
        context: usize,
    },
    /// The text is shorter than one context.
    #[error(
        "the text has {found} tokens, one context needs {context}; give a longer text or a smaller --ctx"
    )]
    ShortText {
        /// Number of tokens of the text.
        found: usize,
        /// Number of tokens per context.
        context: usize,
    },
    /// The two models have different vocabulary sizes.
    #[error("the model has {found} tokens, the reference {expected}: they don't share a tokenizer")]
    Vocabulary {
        /// Vocabulary size of the model.
        found: usize,
        /// Vocabulary size of the reference.
        expected: usize,
    },
    /// A logit is NaN or infinite, because the weights are damaged.
    #[error("context {context}, position {position}: the logits are not finite; the weights are damaged")]
    NotFinite {
        /// Index of the context.
        context: usize,
        /// Position in the context.
        position: usize,
    },
    /// The user stopped the evaluation.
    #[error("interrupted")]
    Interrupted,
}
