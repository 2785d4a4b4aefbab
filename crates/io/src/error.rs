//! Errors of files. Every variant names the path, and also the place in the file if there is one.

use kvant_core::Shape;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

/// An error of a file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Field names say what they hold; each variant's own line says the rest.
pub enum Error {
    /// An operation of the file system failed.
    #[error("{path}: {doing} failed: {source}")]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    /// The disk has no room for the file that is being written.
    #[error(
        "{path}: disk full while {doing}: the file takes {needed} bytes; make room or choose another place"
    )]
    DiskFull { path: PathBuf, doing: &'static str, needed: u64 },
    /// An error that was found earlier and is reported now, because the file is needed now.
    #[error(transparent)]
    Earlier(Arc<Error>),
    /// A file or folder of a kind that kvant does not read.
    #[error("{path}: {found}; {hint}")]
    NotRecognised { path: PathBuf, found: &'static str, hint: &'static str },
    /// A required file of a folder does not exist.
    #[error("{path}: no such file; {hint}")]
    MissingFile { path: PathBuf, hint: &'static str },
    /// A symbolic link whose target is outside of its folder.
    #[error("{path}: is a link to {target}, outside its folder; it is not followed; copy the file instead")]
    Link { path: PathBuf, target: PathBuf },
    /// A file with the extension `.gguf` that is not a GGUF file.
    #[error("{path}: starts with {found:?}, a GGUF file starts with \"GGUF\"; is the download complete?")]
    BadMagic { path: PathBuf, found: String },
    /// A GGUF version or byte order that kvant does not read.
    #[error("{path}: GGUF version {found} at offset 4, expected 2 or 3, little endian; {hint}")]
    Version { path: PathBuf, found: u32, hint: &'static str },
    /// The file ends before the end of one of its parts.
    #[error(
        "{path}: {what} at offset {offset} takes {needed} bytes, but {available} are left; is the download complete?"
    )]
    Truncated { path: PathBuf, what: &'static str, offset: u64, needed: u64, available: u64 },
    /// A count or size above the maximum of [`crate::Limits`] or of the format.
    #[error("{path}: {what}: {found}, at most {max} allowed")]
    Limit { path: PathBuf, what: &'static str, found: u64, max: u64 },
    /// Bytes that should be text are not UTF-8.
    #[error("{path}: {what} at offset {offset} is not UTF-8")]
    BadUtf8 { path: PathBuf, what: &'static str, offset: u64 },
    /// A GGUF metadata value of a type that does not exist.
    #[error("{path}: metadata {key:?} at offset {offset} has value type {found}, expected 0 to 12")]
    BadValueType { path: PathBuf, key: String, offset: u64, found: u32 },
    /// A metadata entry with a wrong type or value.
    #[error("{path}: metadata {key:?} must be {expected}, found {found}")]
    BadMetadata { path: PathBuf, key: String, expected: &'static str, found: String },
    /// A name that occurs twice.
    #[error("{path}: {what} {name:?} occurs twice")]
    DuplicateName { path: PathBuf, what: &'static str, name: String },
    /// A JSON file or header that cannot be parsed or has an unexpected structure. `source` has the line and column.
    #[error("{path}: JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },

    /// The file has no tensor of the requested name.
    #[error("{path}: no tensor {tensor:?}")]
    MissingTensor { path: PathBuf, tensor: String },
    /// A tensor of a type that kvant cannot decode.
    #[error("{path}: tensor {tensor:?} has type {type_name}, which kvant does not read")]
    UnsupportedType { path: PathBuf, tensor: String, type_name: Cow<'static, str> },
    /// FP8 weights whose scales do not match their shape or block size.
    #[error("{path}: tensor {tensor:?} has FP8 weights, but its scales {scales:?} don't fit: {reason}")]
    Scales { path: PathBuf, tensor: String, scales: String, reason: &'static str },
    /// A tensor of `f64` values that a conversion to `f32` would change.
    #[error(
        "{path}: tensor {tensor:?} has numbers of type F64 that f32 cannot hold, the first is element {element}; \
         GGUF models hold no F64; `kvant quantize --format f32` rounds them"
    )]
    Rounded { path: PathBuf, tensor: String, element: usize },
    /// A shape that kvant does not support.
    #[error("{path}: tensor {tensor:?} has dimensions {} (outermost first): {reason}", Few(dimensions))]
    BadShape { path: PathBuf, tensor: String, dimensions: Vec<u64>, reason: &'static str },
    /// A row length that is not a multiple of the block length of the tensor's format.
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
    /// The length of a tensor's byte range does not match its shape and type.
    #[error("{path}: tensor {tensor:?} takes {expected} bytes by shape and type, its range has {found}")]
    Length { path: PathBuf, tensor: String, expected: u64, found: u64 },
    /// A tensor's byte range is not inside the file.
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
    /// Bytes of a safetensors file that belong to no tensor. The safetensors format forbids such bytes.
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
    /// A file of a GGUF model in several files that does not fit the others.
    #[error("{path}: {reason}")]
    Split { path: PathBuf, reason: String },

    /// The output file already exists.
    #[error("{path}: already exists; give --force to replace it")]
    Exists { path: PathBuf },
    /// A path that cannot be the path of an output.
    #[error("{path}: cannot be an output: {reason}")]
    OutputName { path: PathBuf, reason: &'static str },
    /// An output that must not be replaced, for example because a link or a folder has its name.
    #[error("{path}: cannot be written: {reason}")]
    NotWritable { path: PathBuf, reason: &'static str },
    /// An output that is the same file as another output or an input.
    #[error("{path}: is the same file as {other}; give every output a name of its own")]
    SameFile { path: PathBuf, other: PathBuf },
    /// A tensor was put that is not in the plan.
    #[error("{path}: tensor {tensor:?} was not planned")]
    Unplanned { path: PathBuf, tensor: String },
    /// A tensor was put a second time.
    #[error("{path}: tensor {tensor:?} was already put")]
    PutTwice { path: PathBuf, tensor: String },
    /// A tensor has another shape or format than planned.
    #[error(
        "{path}: tensor {tensor:?} is {} {}, planned was {} {}",
        found.0, found.1.name(), expected.0, expected.1.name()
    )]
    NotAsPlanned { path: PathBuf, tensor: String, expected: Box<Signature>, found: Box<Signature> },
    /// The file was sealed or finished before all planned tensors were put.
    #[error("{path}: {missing} planned tensors were not put, the first is {tensor:?}")]
    NotPut { path: PathBuf, tensor: String, missing: usize },
}

/// Displays only the first numbers of a list, because a damaged file may contain a very long list.
struct Few<'a>(&'a [u64]);

impl fmt::Display for Few<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{:?}", &self.0[..self.0.len().min(SHOWN)])?;
        if self.0.len() > SHOWN { write!(f, " and {} more", self.0.len() - SHOWN) } else { Ok(()) }
    }
}

/// Shape and format of a tensor, as an error shows them.
pub type Signature = (Shape, kvant_core::FormatRef);

impl Error {
    /// The file or folder that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Earlier(error) => error.path(),
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
            | Self::Scales { path, .. }
            | Self::Rounded { path, .. }
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
            | Self::OutputName { path, .. }
            | Self::NotWritable { path, .. }
            | Self::SameFile { path, .. }
            | Self::Unplanned { path, .. }
            | Self::PutTwice { path, .. }
            | Self::NotAsPlanned { path, .. }
            | Self::NotPut { path, .. } => path,
        }
    }
}
