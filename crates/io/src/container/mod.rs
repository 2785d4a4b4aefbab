//! The containers, one module each.

pub mod gguf;
