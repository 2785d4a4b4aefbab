//! Errors of the sampler.

/// An error in logits or settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A logit is NaN or positive infinity, because the weights are damaged.
    #[error("logit {token} is {value}; the model's weights are damaged")]
    NotFinite {
        /// Id of the token.
        token: usize,
        /// The logit.
        value: f32,
    },
    /// A setting is outside of its range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The setting's name, as the flag without its dashes.
        name: &'static str,
        /// The value of the setting.
        value: f32,
        /// Description of the allowed values.
        expected: &'static str,
    },
    /// A sequence breaker of DRY is empty or too long.
    #[error("dry-sequence-breaker is {text:?}, expected a text of 1 to {longest} bytes")]
    Breaker {
        /// The text, at most its first `longest` characters.
        text: String,
        /// The largest allowed length in bytes.
        longest: usize,
    },
    /// DRY has sequence breakers, but the sampler has no tokenizer to find them in tokens.
    #[error("dry-sequence-breaker needs the model's tokenizer")]
    NeedsTokenizer,
    /// A logit bias names a token that the model does not have.
    #[error("logit-bias names token {token}, expected an id below {vocabulary}")]
    BiasedToken {
        /// Id of the token.
        token: u32,
        /// Number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// There are no logits, or no logit for the token.
    #[error("no logits to choose from")]
    Empty,
    /// No token has a probability above zero: the mask and the logit biases forbid all tokens, or all logits are minus
    /// infinity.
    #[error("no token is allowed here")]
    NoneAllowed,
}

impl SamplerError {
    /// True if a setting is wrong; false if the logits or the mask are.
    pub fn is_setting(&self) -> bool {
        match self {
            Self::Setting { .. } | Self::Breaker { .. } | Self::NeedsTokenizer | Self::BiasedToken { .. } => {
                true
            }
            Self::NotFinite { .. } | Self::Empty | Self::NoneAllowed => false,
        }
    }
}
