//! What can be wrong with a file, and where: every variant names the path and the place in it.

use kvant_core::Shape;
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// A file that cannot be read or written, with its place.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Field names say what they hold; each variant's own line says the rest.
pub enum Error {
    /// The file system refused.
    #[error("{path}: {doing} failed: {source}")]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    /// The disk has no room for what is being written.
    #[error(
        "{path}: disk full while {doing}: the file takes {needed} bytes; make room or choose another place"
    )]
    DiskFull { path: PathBuf, doing: &'static str, needed: u64 },
    /// A file or folder of a kind that is not read.
    #[error("{path}: {found}; {hint}")]
    NotRecognised { path: PathBuf, found: &'static str, hint: &'static str },
    /// A file that must lie beside the others is not there.
    #[error("{path}: no such file; {hint}")]
    MissingFile { path: PathBuf, hint: &'static str },
    /// A symbolic link that leads out of the folder.
    #[error("{path}: is a link to {target}, outside its folder; it is not followed; copy the file instead")]
    Link { path: PathBuf, target: PathBuf },
    /// Not a GGUF file, though it is called one.
    #[error("{path}: starts with {found:?}, a GGUF file starts with \"GGUF\"; is the download complete?")]
    BadMagic { path: PathBuf, found: String },
    /// A GGUF version or byte order that is not read.
    #[error("{path}: GGUF version {found} at offset 4, expected 2 or 3, little endian; {hint}")]
    Version { path: PathBuf, found: u32, hint: &'static str },
    /// The file ends inside something.
    #[error(
        "{path}: {what} at offset {offset} takes {needed} bytes, but {available} are left; is the download complete?"
    )]
    Truncated { path: PathBuf, what: &'static str, offset: u64, needed: u64, available: u64 },
    /// More than [`crate::Limits`] or the format allows.
    #[error("{path}: {what}: {found}, at most {max} allowed")]
    Limit { path: PathBuf, what: &'static str, found: u64, max: u64 },
    /// Bytes that should be text are not UTF-8.
    #[error("{path}: {what} at offset {offset} is not UTF-8")]
    BadUtf8 { path: PathBuf, what: &'static str, offset: u64 },
    /// A GGUF metadata value of a type that does not exist.
    #[error("{path}: metadata {key:?} at offset {offset} has value type {found}, expected 0 to 12")]
    BadValueType { path: PathBuf, key: String, offset: u64, found: u32 },
    /// A GGUF metadata entry that must be of another type or value.
    #[error("{path}: metadata {key:?} must be {expected}, found {found}")]
    BadMetadata { path: PathBuf, key: String, expected: &'static str, found: String },
    /// One name twice.
    #[error("{path}: {what} {name:?} occurs twice")]
    DuplicateName { path: PathBuf, what: &'static str, name: String },
    /// A JSON file or header that does not parse, or is not what it must be; the source has line and column.
    #[error("{path}: JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },

    /// A tensor that was asked for is not there.
    #[error("{path}: no tensor {tensor:?}")]
    MissingTensor { path: PathBuf, tensor: String },
    /// A tensor of a type that kvant cannot decode.
    #[error("{path}: tensor {tensor:?} has type {type_name}, which kvant does not read")]
    UnsupportedType { path: PathBuf, tensor: String, type_name: Cow<'static, str> },
    /// A shape that no tensor here can have.
    #[error("{path}: tensor {tensor:?} has dimensions {} (outermost first): {reason}", short(dimensions))]
    BadShape { path: PathBuf, tensor: String, dimensions: Vec<u64>, reason: &'static str },
    /// Rows that cannot be cut into whole blocks of the tensor's format.
    #[error(
        "{path}: tensor {tensor:?} has rows of {columns}, not whole blocks of {block_elements} ({format})"
    )]
    NotWholeBlocks {
        path: PathBuf,
        tensor: String,
        columns: u64,
        block_elements: usize,
        format: &'static str,
    },
    /// The byte range given for a tensor is not what its shape and type take.
    #[error("{path}: tensor {tensor:?} takes {expected} bytes by shape and type, its range has {found}")]
    Length { path: PathBuf, tensor: String, expected: u64, found: u64 },
    /// A tensor's bytes lie outside the file.
    #[error(
        "{path}: tensor {tensor:?} takes {bytes} bytes at offset {offset}, but the file has {file_bytes}; is the download complete?"
    )]
    OutOfRange { path: PathBuf, tensor: String, offset: u64, bytes: u64, file_bytes: u64 },
    /// A tensor's offset is not a multiple of the alignment.
    #[error("{path}: tensor {tensor:?} at data offset {offset} is not aligned to {alignment} bytes")]
    Misaligned { path: PathBuf, tensor: String, offset: u64, alignment: u64 },
    /// Two tensors share bytes.
    #[error("{path}: tensor {tensor:?} at offset {offset} overlaps tensor {other:?}")]
    Overlap { path: PathBuf, tensor: String, other: String, offset: u64 },
    /// Bytes of a safetensors file that belong to no tensor, which that format forbids.
    #[error("{path}: {bytes} bytes at offset {offset} belong to no tensor")]
    Hole { path: PathBuf, offset: u64, bytes: u64 },

    /// A shard name that is not a plain file name.
    #[error(
        "{path}: tensor {tensor:?} lies in shard {shard:?}, expected a plain file name in the same folder"
    )]
    BadShardName { path: PathBuf, tensor: String, shard: String },
    /// The index names a tensor that its shard does not have.
    #[error("{path}: tensor {tensor:?} is not in shard {shard:?}, where the index places it")]
    NotInShard { path: PathBuf, tensor: String, shard: String },
    /// One file of a GGUF model in several.
    #[error(
        "{path}: one of {count} GGUF parts; joining parts is not supported yet: merge them with `llama-gguf-split --merge`"
    )]
    Split { path: PathBuf, count: u64 },

    /// The output is already there.
    #[error("{path}: already exists; give --force to replace it")]
    Exists { path: PathBuf },
    /// A tensor was put that the plan does not name.
    #[error("{path}: tensor {tensor:?} was not planned")]
    Unplanned { path: PathBuf, tensor: String },
    /// A tensor was put a second time.
    #[error("{path}: tensor {tensor:?} was already put")]
    PutTwice { path: PathBuf, tensor: String },
    /// A tensor is not what was planned.
    #[error(
        "{path}: tensor {tensor:?} is {} {}, planned was {} {}",
        found.0, found.1.name(), expected.0, expected.1.name()
    )]
    NotAsPlanned { path: PathBuf, tensor: String, expected: Box<Signature>, found: Box<Signature> },
    /// The file was to be finished before all planned tensors were put.
    #[error("{path}: {missing} planned tensors were not put, the first is {tensor:?}")]
    NotPut { path: PathBuf, tensor: String, missing: usize },
}

/// A list of dimensions of which a file may claim millions: its beginning and its length.
fn short(dimensions: &[u64]) -> String {
    const SHOWN: usize = 8;
    match dimensions.get(..SHOWN) {
        Some(first) if dimensions.len() > SHOWN => format!("{first:?} and {} more", dimensions.len() - SHOWN),
        _ => format!("{dimensions:?}"),
    }
}

/// Shape and format of a tensor, as an error shows them.
pub type Signature = (Shape, kvant_core::FormatRef);

impl Error {
    /// The file or folder at fault.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::DiskFull { path, .. }
            | Self::NotRecognised { path, .. }
            | Self::MissingFile { path, .. }
            | Self::Link { path, .. }
            | Self::BadMagic { path, .. }
            | Self::Version { path, .. }
            | Self::Truncated { path, .. }
            | Self::Limit { path, .. }
            | Self::BadUtf8 { path, .. }
            | Self::BadValueType { path, .. }
            | Self::BadMetadata { path, .. }
            | Self::DuplicateName { path, .. }
            | Self::Json { path, .. }
            | Self::MissingTensor { path, .. }
            | Self::UnsupportedType { path, .. }
            | Self::BadShape { path, .. }
            | Self::NotWholeBlocks { path, .. }
            | Self::Length { path, .. }
            | Self::OutOfRange { path, .. }
            | Self::Misaligned { path, .. }
            | Self::Overlap { path, .. }
            | Self::Hole { path, .. }
            | Self::BadShardName { path, .. }
            | Self::NotInShard { path, .. }
            | Self::Split { path, .. }
            | Self::Exists { path }
            | Self::Unplanned { path, .. }
            | Self::PutTwice { path, .. }
            | Self::NotAsPlanned { path, .. }
            | Self::NotPut { path, .. } => path,
        }
    }
}
