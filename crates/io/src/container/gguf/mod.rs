//! GGUF, llama.cpp's file format: versions 2 and 3, little endian.
//!
//! Layout (upstream: `ggml/include/gguf.h`): magic `GGUF`, version u32, tensor count u64, metadata count u64; the
//! metadata entries (key, type, value); the tensor infos (name, dimension count, dimensions innermost first, type id,
//! offset); padding to `general.alignment` (32 if the key is absent); the tensor data, where every tensor begins at a
//! multiple of this alignment. Not covered here: version 1 (32-bit counts, used only in 2023), and big-endian
//! files.

mod cursor;
mod reader;
mod split;
mod types;
mod writer;

pub use reader::GgufFile;
pub use split::SplitGguf;
pub use writer::GgufWriter;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment in bytes if the file has no `general.alignment`.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest number of dimensions of a tensor (`GGML_MAX_DIMS`).
pub(crate) const MAX_DIMENSIONS: usize = 4;
/// Largest nesting depth of metadata arrays. Upstream writes no nested arrays.
pub(crate) const ARRAY_DEPTH: usize = 4;
