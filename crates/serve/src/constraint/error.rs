//! Errors of grammars.

/// Largest size of a grammar or of a schema, in bytes.
pub const GRAMMAR_BYTES: usize = 256 << 10;

/// An error of a grammar.
#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
    /// The grammar is too large.
    #[error("{found} bytes, at most {GRAMMAR_BYTES} allowed")]
    Large {
        /// Size in bytes.
        found: usize,
    },
    /// The grammar cannot be parsed, or it exceeds a limit.
    #[error("{0}")]
    Grammar(String),
    /// An error in a GBNF grammar.
    #[error("line {line}: {message}")]
    Gbnf {
        /// Number of the line, from 1.
        line: usize,
        /// The error.
        message: String,
    },
}
