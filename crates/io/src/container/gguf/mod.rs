//! GGUF, llama.cpp's container: versions 2 and 3, little endian.
//!
//! Layout (upstream: `ggml/include/gguf.h`): magic `GGUF`, version u32, tensor count u64, metadata count u64; the
//! metadata entries (key, type, value); the tensor infos (name, dimension count, dimensions innermost first, type
//! id, offset); padding to `general.alignment` (32 where absent); the data, every tensor aligned. Left out: version
//! 1 (32-bit counts, 2023 only), big endian, models split into several files.

mod cursor;
mod reader;
mod types;
mod writer;

pub use reader::GgufFile;
pub use writer::GgufWriter;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// Dimensions that a tensor may have (`GGML_MAX_DIMS`).
pub(crate) const MAX_DIMENSIONS: usize = 4;
/// How deep arrays of arrays may go; upstream writes none.
pub(crate) const ARRAY_DEPTH: usize = 4;
