//! What a file is: checkpoints that are read, sinks that are written, and the limits that keep both honest.
//!
//! [`open`] turns a path into a [`Checkpoint`]: tensors by name, zero copy over a memory map, and [`Meta`], which
//! is either GGUF's metadata or a Hugging Face folder's JSON files. A [`Sink`] writes a file whose every tensor was
//! announced in a [`Plan`], so that tensors may come in any order; the file appears by rename, whole or not at all.
//!
//! Invariant: no allocation from a length that was not checked against the file and [`Limits`]; every error names
//! the path and the place. Left out on purpose: what a tensor means to a network (`kvant-model`).

mod allocator;
mod checkpoint;
pub mod container;
mod error;
mod guard;
mod json;
mod limits;
mod meta;
mod mmap;
mod number;
mod output;
mod read;
pub mod signals;
mod sink;

pub use allocator::Allocator;
pub use checkpoint::{
    Checkpoint, Storage, TensorInfo, content_hash, content_hash_with, first_rounded, hash, open,
};
pub use container::safetensors::F8_SCALES;
pub use error::Error;
pub use guard::guard_mapped_files;
pub use json::{bounded_value, parse_json};
pub use limits::Limits;
pub use meta::{Array, HuggingFace, Meta, Metadata, Value};
pub use mmap::MappedFile;
pub use number::NumberType;
pub use output::{OutputFile, temporary_of};
pub use read::{Links, open_for_update, open_regular, read_file};
pub use sink::{Plan, PlannedTensor, Sink, create, file_bytes};
