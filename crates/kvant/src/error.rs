//! What can go wrong in a job.

/// A fault of a part, with its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// A tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] kvant_model::TokenizerError),
    /// Quantization.
    #[error(transparent)]
    Quant(#[from] kvant_quant::Error),
}
