//! A model on disk: tensors by name, without a copy, and the metadata of the model.

use crate::container::{
    gguf::{GgufFile, SplitGguf},
    safetensors::SafetensorsFolder,
};
use crate::{Error, Limits, MappedFile, Meta, NumberType, foreign, json};
use kvant_core::{Bytes, FormatRef, Shape, Tensor};
use std::borrow::Cow;
use std::path::Path;

/// Storage type of a tensor in its file.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A format with which kvant computes.
    Format(FormatRef),
    /// Values of another number type. kvant converts them when it reads the tensor.
    Numbers {
        /// The number type in the file.
        kind: NumberType,
        /// The format of the tensor that [`Checkpoint::tensor`] returns.
        widened: FormatRef,
    },
    /// A type that kvant does not read, with the name of the type. [`Checkpoint::tensor`] returns an error.
    Unsupported(Cow<'static, str>),
}

/// Description of a tensor, without its bytes.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The tensor's name, as the checkpoint spells it.
    pub name: String,
    /// Shape, outermost dimension first (the reader reverses GGUF's order).
    pub shape: Shape,
    /// Storage type in the file.
    pub storage: Storage,
    /// Size in the file in bytes. For a GGUF type of unknown block size, this is the distance to the next tensor.
    pub bytes: usize,
}

impl TensorInfo {
    /// Name of the type in the file: the name of a format of kvant, or the file's own name of another type.
    pub fn type_name(&self) -> &str {
        match &self.storage {
            Storage::Format(format) => format.name(),
            Storage::Numbers { kind, .. } => kind.name(),
            Storage::Unsupported(name) => name,
        }
    }

    /// Format of the tensor that [`Checkpoint::tensor`] returns; `None` for a type that kvant does not read.
    pub fn format(&self) -> Option<FormatRef> {
        match &self.storage {
            Storage::Format(format) => Some(*format),
            Storage::Numbers { widened, .. } => Some(*widened),
            Storage::Unsupported(_) => None,
        }
    }

    /// Makes the tensor from its stored bytes. The tensor shares these bytes, or it is a copy in a wider format.
    pub(crate) fn tensor(&self, path: &Path, bytes: Bytes) -> Result<Tensor, Error> {
        let missing = |_| Error::MissingTensor { path: path.into(), tensor: self.name.clone() };
        match &self.storage {
            Storage::Format(format) => Tensor::new(self.shape, *format, bytes).map_err(missing),
            Storage::Numbers { kind, .. } => kind.widen(self.shape, &bytes).map_err(missing),
            Storage::Unsupported(type_name) => Err(Error::UnsupportedType {
                path: path.into(),
                tensor: self.name.clone(),
                type_name: type_name.clone(),
            }),
        }
    }
}

/// A model on disk.
pub trait Checkpoint: Send + Sync {
    /// Path of the model's file or folder.
    fn path(&self) -> &Path;

    /// The model's metadata.
    fn meta(&self) -> &Meta;

    /// Descriptions of all tensors, in file order. Tensors of types that kvant does not read are included.
    fn tensors(&self) -> &[TensorInfo];

    /// Returns one tensor. A tensor in one of kvant's formats refers to the mapped file, without a copy. Any other
    /// tensor is a copy in a wider format.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for an unknown name; [`Error::UnsupportedType`] for a type that kvant does not read;
    /// [`Error::Scales`] for FP8 weights whose scales do not match.
    fn tensor(&self, name: &str) -> Result<Tensor, Error>;

    /// The description of one tensor; `None` if there is no tensor of this name.
    fn info(&self, name: &str) -> Option<&TensorInfo>;

    /// A tensor's unchanged bytes in the file, for every type; `None` if there is no tensor of this name.
    fn stored_bytes(&self, name: &str) -> Option<Bytes>;
}

/// Index of the first element that [`Checkpoint::tensor`] rounds; `None` if it rounds no element. Only `f64` tensors
/// can have rounded elements.
pub fn first_rounded(checkpoint: &dyn Checkpoint, name: &str) -> Option<usize> {
    match checkpoint.info(name)?.storage {
        Storage::Numbers { kind, .. } => kind.first_rounded(&checkpoint.stored_bytes(name)?),
        _ => None,
    }
}

/// Opens a `.gguf` file, a `.safetensors` file or a Hugging Face folder. If a GGUF model has several files, any of them
/// opens all of them. For a `.safetensors` file, the JSON files are
/// read from its folder.
///
/// Only headers are read. The kind of a file is determined first by its content (GGUF's magic) and then by its
/// extension.
///
/// # Errors
/// An error for every fault of the file, with path, tensor and offset.
pub fn open(path: &Path, limits: &Limits) -> Result<Box<dyn Checkpoint>, Error> {
    if path.is_dir() {
        foreign::refuse_folder(path)?;
        return Ok(Box::new(SafetensorsFolder::open(path, limits)?));
    }
    let bytes = MappedFile::open(path)?.into_bytes();
    json::refuse_pointer(path, &bytes)?;
    let has_extension = |wanted| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(wanted));
    if bytes.starts_with(b"GGUF") {
        return SplitGguf::join(GgufFile::parse(path, bytes, limits)?, limits);
    }
    foreign::refuse_file(path, &bytes)?;
    if has_extension("gguf") {
        Ok(Box::new(GgufFile::parse(path, bytes, limits)?))
    } else {
        Ok(Box::new(SafetensorsFolder::open(path, limits)?))
    }
}

/// The blake3 hash of `bytes`, computed on all threads of the caller's thread pool.
pub fn hash(bytes: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update_rayon(bytes).finalize()
}

/// The blake3 hash of all tensors of a checkpoint in file order: of their names, shapes, types and [`hash`]es.
///
/// # Errors
/// [`Error::MissingTensor`] if the bytes of a tensor are missing.
pub fn content_hash(checkpoint: &dyn Checkpoint) -> Result<blake3::Hash, Error> {
    content_hash_with(checkpoint, |info| {
        let missing = || Error::MissingTensor { path: checkpoint.path().into(), tensor: info.name.clone() };
        Ok(hash(&checkpoint.stored_bytes(&info.name).ok_or_else(missing)?))
    })
}

/// Computes [`content_hash`] for a caller that already has the hashes of the tensors' bytes. `of` returns the hash of
/// one tensor.
///
/// # Errors
/// The errors of `of`.
pub fn content_hash_with<E>(
    checkpoint: &dyn Checkpoint,
    mut of: impl FnMut(&TensorInfo) -> Result<blake3::Hash, E>,
) -> Result<blake3::Hash, E> {
    let mut hasher = blake3::Hasher::new();
    for info in checkpoint.tensors() {
        // The length goes before each name and shape. So two different lists of tensors never give the hasher the same
        // bytes.
        hasher.update(&(info.name.len() as u64).to_le_bytes());
        hasher.update(info.name.as_bytes());
        hasher.update(&(info.shape.dimensions().len() as u64).to_le_bytes());
        for &d in info.shape.dimensions() {
            hasher.update(&(d as u64).to_le_bytes());
        }
        hasher.update(info.type_name().as_bytes());
        hasher.update(of(info)?.as_bytes());
    }
    Ok(hasher.finalize())
}
