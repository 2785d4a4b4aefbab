//! Reads and writes model files. A [`Checkpoint`] is read, a [`Sink`] is written, and [`Limits`] bound the memory that
//! a file can claim.
//!
//! [`open`] opens the file or folder at a path and returns a [`Checkpoint`]. A checkpoint gives access to tensors by
//! name, without a copy, in a memory-mapped file. It also has [`Meta`]: the metadata of a GGUF file or the JSON files
//! of a Hugging Face folder. A [`Sink`] writes a file. A [`Plan`] announces all tensors of this file, so the tensors
//! may be written in any order. The file gets its final name by a rename after it is complete, so an incomplete file
//! never has this name.
//!
//! Invariants: every length is checked against the file size and [`Limits`] before memory is allocated. Every error
//! names the path and the place in the file. Not covered here: the role of a tensor in a network; see `kvant-model`.

mod allocator;
mod checkpoint;
pub mod container;
mod error;
mod foreign;
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

pub use allocator::{Allocator, return_freed_memory};
pub use checkpoint::{
    Checkpoint, Storage, TensorInfo, content_hash, content_hash_with, first_rounded, hash, open,
};
pub use container::modules::Module;
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
