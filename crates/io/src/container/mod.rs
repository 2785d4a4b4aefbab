//! The file formats of models, one module for each format.

pub mod gguf;
pub mod modules;
pub mod safetensors;
