//! A GGUF model in several files, as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on.
//!
//! The first file has the metadata. Each file has its own tensors, and the keys `split.no` (from 0), `split.count` and
//! `split.tensors.count` (tensors of all files). Source: llama.cpp's `tools/gguf-split` and `src/llama-model-loader.cpp`.

use super::GgufFile;
use crate::{Checkpoint, Error, Limits, Meta, TensorInfo};
use kvant_core::{Bytes, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// A GGUF model in several files.
pub struct SplitGguf {
    path: PathBuf,
    meta: Meta,
    parts: Vec<GgufFile>,
    /// The tensors of all parts.
    tensors: Vec<TensorInfo>,
    /// Maps the name of a tensor to its index in `tensors` and the index of its part.
    places: HashMap<String, (usize, usize)>,
}

/// Returns an entry of the metadata as a number.
fn number(file: &GgufFile, key: &str) -> Option<u64> {
    match file.meta() {
        Meta::Gguf(metadata) => metadata.get(key)?.as_u64(),
        Meta::HuggingFace(_) => None,
    }
}

impl SplitGguf {
    /// Opens all parts of the model if `part` is one of several; otherwise returns `part`.
    ///
    /// # Errors
    /// [`Error::Split`] if the file's name or a part does not fit the others; the errors of [`GgufFile::open`].
    pub fn join(part: GgufFile, limits: &Limits) -> Result<Box<dyn Checkpoint>, Error> {
        let Some(count) = number(&part, COUNT).filter(|count| *count > 1) else { return Ok(Box::new(part)) };
        let path = part.path().to_owned();
        let wrong = |path: &Path, reason: String| Error::Split { path: path.into(), reason };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = |index: u64| format!("-{:05}-of-{count:05}.gguf", index + 1);
        let own = number(&part, NUMBER).unwrap_or(u64::MAX);
        let stem = name.strip_suffix(&ending(own.min(count))).ok_or_else(|| {
            let expected = format!(
                "a name that ends in {} (split.no {own}, split.count {count})",
                ending(own.min(count))
            );
            wrong(&path, format!("is a part of a model and needs {expected}"))
        })?;
        let mut opened = Some(part);
        let mut parts = Vec::new();
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut places = HashMap::new();
        for index in 0..count {
            let path = path.with_file_name(format!("{stem}{}", ending(index)));
            if !path.exists() {
                return Err(wrong(
                    &path,
                    format!("is missing: the model has {count} parts; put all of them into one folder"),
                ));
            }
            let part = match opened.take_if(|_| index == own) {
                Some(part) => part,
                None => GgufFile::open(&path, limits)?,
            };
            if number(&part, COUNT) != Some(count) || number(&part, NUMBER) != Some(index) {
                let expected = format!("split.no {index} and split.count {count}");
                return Err(wrong(&path, format!("belongs to another model: expected {expected}")));
            }
            for info in part.tensors() {
                if places.insert(info.name.clone(), (tensors.len(), parts.len())).is_some() {
                    let (what, name) = ("tensor name", info.name.clone());
                    return Err(Error::DuplicateName { path, what, name });
                }
                tensors.push(info.clone());
            }
            if tensors.len() > limits.tensors {
                let (what, found, max) = ("tensor count", tensors.len() as u64, limits.tensors as u64);
                return Err(Error::Limit { path, what, found, max });
            }
            parts.push(part);
        }
        let mut meta = parts[0].meta().clone();
        if let Meta::Gguf(metadata) = &mut meta {
            if let Some(expected) = metadata.get(TENSORS).and_then(|value| value.as_u64())
                && expected != tensors.len() as u64
            {
                let found = tensors.len();
                return Err(wrong(
                    &path,
                    format!("is incomplete: {found} of {expected} tensors in its {count} parts"),
                ));
            }
            metadata.retain(|key| ![COUNT, NUMBER, TENSORS].contains(&key));
        }
        Ok(Box::new(Self { path, meta, parts, tensors, places }))
    }
}

impl Checkpoint for SplitGguf {
    fn path(&self) -> &Path {
        &self.path
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        match self.places.get(name) {
            Some((_, part)) => self.parts[*part].tensor(name),
            None => Err(Error::MissingTensor { path: self.path.clone(), tensor: name.into() }),
        }
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|(index, _)| &self.tensors[*index])
    }

    fn stored_bytes(&self, name: &str) -> Option<Bytes> {
        let (_, part) = self.places.get(name)?;
        self.parts[*part].stored_bytes(name)
    }
}
