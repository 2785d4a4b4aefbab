//! The containers, one module each.

pub mod gguf;
pub mod safetensors;
