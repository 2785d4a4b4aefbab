//! A model on disk: names, tensors without a copy, and what it says about itself.

use crate::container::{gguf::GgufFile, safetensors::SafetensorsFolder};
use crate::{Error, Limits, MappedFile, Meta};
use kvant_core::{FormatRef, Shape, Tensor};
use std::path::Path;

/// What is known of a tensor without touching its bytes.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The tensor's name in this checkpoint's own naming.
    pub name: String,
    /// Shape, outermost dimension first (GGUF's order is reversed by the reader).
    pub shape: Shape,
    /// Storage format; a type that kvant cannot decode is an error of [`open`] that names the tensor.
    pub format: FormatRef,
    /// Bytes in the file.
    pub bytes: usize,
}

/// A model on disk.
pub trait Checkpoint: Send + Sync {
    /// Where it lies.
    fn path(&self) -> &Path;

    /// What it says about itself.
    fn meta(&self) -> &Meta;

    /// All tensors, in file order.
    fn tensors(&self) -> &[TensorInfo];

    /// One tensor, zero copy over the map.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    fn tensor(&self, name: &str) -> Result<Tensor, Error>;

    /// What is known of one tensor.
    fn info(&self, name: &str) -> Option<&TensorInfo>;
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
    content_hash_with(checkpoint, |info| Ok(hash(checkpoint.tensor(&info.name)?.bytes())))
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
        hasher.update(info.format.name().as_bytes());
        hasher.update(of(info)?.as_bytes());
    }
    Ok(hasher.finalize())
}
