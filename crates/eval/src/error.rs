//! What can be wrong with an evaluation.

/// A text, a context or a pair of models that cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// A context that leaves nothing to score.
    #[error("a context of {context} tokens leaves nothing to score; at least 4 are needed")]
    ShortContext {
        /// Its length.
        context: usize,
    },
    /// A text shorter than one context.
    #[error(
        "the text has {found} tokens, one context needs {context}; give a longer text or a smaller --ctx"
    )]
    ShortText {
        /// Tokens of the text.
        found: usize,
        /// Tokens of a context.
        context: usize,
    },
    /// Two models whose logits don't name the same tokens.
    #[error("the model has {found} tokens, the reference {expected}: they don't share a tokenizer")]
    Vocabulary {
        /// The model's.
        found: usize,
        /// The reference's.
        expected: usize,
    },
    /// A probability that is no number: broken weights.
    #[error("context {context}, position {position}: the logits are not finite; the weights are damaged")]
    NotFinite {
        /// Which context.
        context: usize,
        /// Which position in it.
        position: usize,
    },
    /// Stopped by the user.
    #[error("interrupted")]
    Interrupted,
}
