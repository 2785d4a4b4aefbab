//! Parts of an answer.

/// A new part of an answer, or more of the last one.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Text for the user.
    Content(String),
    /// Reasoning.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Number of the call in the answer, from 0.
        index: usize,
        /// The name of the tool.
        name: String,
    },
    /// More of the arguments of the last call, as JSON text.
    Arguments(String),
}
