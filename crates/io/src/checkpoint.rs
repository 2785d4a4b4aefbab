//! A model on disk: names, tensors without a copy, and what it says about itself.

use crate::container::{gguf::GgufFile, safetensors::SafetensorsFolder};
use crate::{Error, Limits, MappedFile, Meta, NumberType, json};
use kvant_core::{Bytes, FormatRef, Shape, Tensor};
use std::borrow::Cow;
use std::path::Path;

/// How a tensor's numbers are stored in its file.
#[derive(Clone, Debug)]
pub enum Storage {
    /// In a format that kvant computes with.
    Format(FormatRef),
    /// As numbers of another type.
    Numbers {
        /// The type in the file.
        kind: NumberType,
        /// The format in which [`Checkpoint::tensor`] hands them out.
        widened: FormatRef,
    },
    /// In a type that kvant does not read, by its name. [`Checkpoint::tensor`] is an error.
    Unsupported(Cow<'static, str>),
}

/// A tensor without its bytes.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The tensor's name in this checkpoint's own naming.
    pub name: String,
    /// Shape, outermost dimension first (GGUF's order is reversed by the reader).
    pub shape: Shape,
    /// How it is stored.
    pub storage: Storage,
    /// Bytes in the file. For a GGUF type without a known block size: the bytes up to the next tensor.
    pub bytes: usize,
}

impl TensorInfo {
    /// The type in the file: a format's name, or a type's as the container spells it.
    pub fn type_name(&self) -> &str {
        match &self.storage {
            Storage::Format(format) => format.name(),
            Storage::Numbers { kind, .. } => kind.name(),
            Storage::Unsupported(name) => name,
        }
    }

    /// The format in which [`Checkpoint::tensor`] hands the tensor out; `None` for a type that is not read.
    pub fn format(&self) -> Option<FormatRef> {
        match &self.storage {
            Storage::Format(format) => Some(*format),
            Storage::Numbers { widened, .. } => Some(*widened),
            Storage::Unsupported(_) => None,
        }
    }

    /// The tensor of these stored bytes: the same bytes, or a widened copy.
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
    /// Where it lies.
    fn path(&self) -> &Path;

    /// The model's description of itself.
    fn meta(&self) -> &Meta;

    /// All tensors, in file order, those of types that are not read among them.
    fn tensors(&self) -> &[TensorInfo];

    /// One tensor: zero copy over the map if it is stored in one of kvant's formats, else a widened copy.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::UnsupportedType`] with the type's name; [`Error::Scales`] for FP8 weights whose
    /// scales don't fit.
    fn tensor(&self, name: &str) -> Result<Tensor, Error>;

    /// One tensor without its bytes.
    fn info(&self, name: &str) -> Option<&TensorInfo>;

    /// A tensor's bytes as they stand in the file, whatever their type.
    fn stored_bytes(&self, name: &str) -> Option<Bytes>;
}

/// The first element of a tensor that [`Checkpoint::tensor`] has to round, if there is one: of numbers in `f64`.
pub fn first_rounded(checkpoint: &dyn Checkpoint, name: &str) -> Option<usize> {
    match checkpoint.info(name)?.storage {
        Storage::Numbers { kind, .. } => kind.first_rounded(&checkpoint.stored_bytes(name)?),
        _ => None,
    }
}

/// Opens a `.gguf` file, a `.safetensors` file (its folder's JSON files beside it) or a Hugging Face folder.
///
/// Only headers are read; the kind is told by content (GGUF's magic), not by extension alone.
///
/// # Errors
/// Every fault of the file with path, tensor and offset.
pub fn open(path: &Path, limits: &Limits) -> Result<Box<dyn Checkpoint>, Error> {
    if path.is_dir() {
        return Ok(Box::new(SafetensorsFolder::open(path, limits)?));
    }
    let not_recognised = |found, hint| Err(Error::NotRecognised { path: path.into(), found, hint });
    let hint = "give a .gguf file, a .safetensors file or a Hugging Face folder";
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let bytes = MappedFile::open(path)?.into_bytes();
    json::refuse_pointer(path, &bytes)?;
    match bytes.first_chunk::<4>() {
        Some(b"GGUF") => return Ok(Box::new(GgufFile::parse(path, bytes, limits)?)),
        Some(b"ggml" | b"lmgg" | b"tjgg" | b"fmgg") => {
            return not_recognised("a GGML file of 2023", "convert the original again to GGUF");
        }
        Some(b"PK\x03\x04") => {
            return not_recognised("a PyTorch pickle", "such files run code when read: ask for safetensors");
        }
        _ => {}
    }
    match extension.as_str() {
        "gguf" => Ok(Box::new(GgufFile::parse(path, bytes, limits)?)),
        "safetensors" => Ok(Box::new(SafetensorsFolder::open(path, limits)?)),
        "onnx" => not_recognised("an ONNX graph", "this version does not read ONNX yet"),
        "bin" | "pth" | "pt" | "ckpt" => {
            not_recognised("probably a PyTorch pickle", "such files run code when read: ask for safetensors")
        }
        _ => not_recognised("neither GGUF nor safetensors", hint),
    }
}

/// blake3 over bytes, on all threads of the caller's pool.
pub fn hash(bytes: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update_rayon(bytes).finalize()
}

/// blake3 over every tensor's name, shape, format and [`hash`], in file order.
///
/// # Errors
/// As [`Checkpoint::tensor`].
pub fn content_hash(checkpoint: &dyn Checkpoint) -> Result<blake3::Hash, Error> {
    content_hash_with(checkpoint, |info| {
        let missing = || Error::MissingTensor { path: checkpoint.path().into(), tensor: info.name.clone() };
        Ok(hash(&checkpoint.stored_bytes(&info.name).ok_or_else(missing)?))
    })
}

/// [`content_hash`] by whoever has the tensors' hashes already.
///
/// # Errors
/// What `of` says.
pub fn content_hash_with<E>(
    checkpoint: &dyn Checkpoint,
    mut of: impl FnMut(&TensorInfo) -> Result<blake3::Hash, E>,
) -> Result<blake3::Hash, E> {
    let mut hasher = blake3::Hasher::new();
    for info in checkpoint.tensors() {
        // Lengths go first, so that no two different lists of tensors feed the same bytes.
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
