//! safetensors: one file, or a Hugging Face folder of one or several.
//!
//! Layout (upstream: `safetensors/src/tensor.rs`): header length u64, a JSON object name → {dtype, shape,
//! data_offsets}, then the data without holes. Several shards are joined by `model.safetensors.index.json`. The
//! header is parsed here rather than by the `safetensors` crate, because an error has to name the tensor and a name
//! that occurs twice must not pass.

use crate::{Checkpoint, Error, HuggingFace, Limits, Links, MappedFile, Meta, TensorInfo, read_file};
use kvant_core::{Bytes, Shape, Tensor, format};
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// A Hugging Face checkpoint: its JSON files, and tensors of one or several mapped files.
pub struct SafetensorsFolder {
    path: PathBuf,
    meta: Meta,
    tensors: Vec<TensorInfo>,
    /// Name → index into `tensors`, and the tensor's bytes.
    places: HashMap<String, (usize, Bytes)>,
    /// Name → data type of what cannot be decoded.
    unsupported: HashMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens a folder with `config.json` and `model.safetensors` or shards, or one file whose folder has them.
    ///
    /// # Errors
    /// Whatever is wrong with a file, with its place.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let is_folder = path.is_dir();
        let folder = if is_folder { path } else { path.parent().unwrap_or(Path::new(".")) };
        let meta = Meta::HuggingFace(Box::new(json_files(folder, limits)?));
        let mut all = Self {
            path: path.into(),
            meta,
            tensors: Vec::new(),
            places: HashMap::new(),
            unsupported: HashMap::new(),
        };
        if !is_folder {
            all.add(path, limits)?;
        } else if folder.join(INDEX).exists() {
            all.add_shards(folder, limits)?;
        } else {
            all.add(&folder.join(SINGLE), limits)?;
        }
        Ok(all)
    }

    fn add(&mut self, file: &Path, limits: &Limits) -> Result<(), Error> {
        if !file.exists() {
            return Err(Error::MissingFile {
                path: file.into(),
                hint: "a Hugging Face folder holds model.safetensors or model.safetensors.index.json",
            });
        }
        let bytes = MappedFile::open(file)?.into_bytes();
        for raw in parse(file, &bytes, limits)? {
            if self.places.contains_key(&raw.name) || self.unsupported.contains_key(&raw.name) {
                return Err(Error::DuplicateName { path: file.into(), what: "tensor", name: raw.name });
            }
            match raw.kind {
                Kind::Unsupported(data_type) => {
                    self.unsupported.insert(raw.name, data_type);
                }
                Kind::Known(info) => {
                    self.places.insert(raw.name, (self.tensors.len(), raw.bytes));
                    self.tensors.push(info);
                }
            }
        }
        Ok(())
    }

    fn add_shards(&mut self, folder: &Path, limits: &Limits) -> Result<(), Error> {
        let path = folder.join(INDEX);
        let index = read_json(&path, limits)?.unwrap_or_default();
        let bad = |found: &str| Error::BadMetadata {
            path: path.clone(),
            key: "weight_map".into(),
            expected: "an object tensor name → shard file name",
            found: found.into(),
        };
        let map = index.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("something else"))?;
        let mut shards: Vec<&str> = Vec::new();
        let mut seen = HashSet::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().ok_or_else(|| bad("a shard that is no string"))?;
            // A name with a separator could lead out of the folder.
            let plain =
                Path::new(shard).file_name().is_some_and(|n| n == shard) && !shard.contains(['/', '\\']);
            if !plain {
                return Err(Error::BadShardName { path, tensor: tensor.clone(), shard: shard.into() });
            }
            if seen.insert(shard) {
                shards.push(shard);
            }
        }
        if shards.len() > limits.shards {
            let (found, max) = (shards.len() as u64, limits.shards as u64);
            return Err(Error::Limit { path, what: "shards", found, max });
        }
        let mut in_shard = HashMap::new();
        for shard in shards {
            let before = self.tensors.len();
            self.add(&folder.join(shard), limits)?;
            in_shard.extend(self.tensors[before..].iter().map(|t| (t.name.clone(), shard)));
        }
        for (tensor, shard) in map {
            let shard = shard.as_str().unwrap_or_default();
            let there =
                in_shard.get(tensor).is_some_and(|s| *s == shard) || self.unsupported.contains_key(tensor);
            if !there {
                return Err(Error::NotInShard { path, tensor: tensor.clone(), shard: shard.into() });
            }
        }
        Ok(())
    }
}

impl Checkpoint for SafetensorsFolder {
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
        if let Some(data_type) = self.unsupported.get(name) {
            return Err(Error::UnsupportedType {
                path: self.path.clone(),
                tensor: name.into(),
                type_name: data_type.clone().into(),
            });
        }
        let missing = || Error::MissingTensor { path: self.path.clone(), tensor: name.into() };
        let (index, bytes) = self.places.get(name).ok_or_else(missing)?;
        let info = &self.tensors[*index];
        Tensor::new(info.shape, info.format, bytes.clone()).map_err(|_| missing())
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|(index, _)| &self.tensors[*index])
    }
}

enum Kind {
    Known(TensorInfo),
    Unsupported(String),
}

struct Parsed {
    name: String,
    kind: Kind,
    bytes: Bytes,
}

/// One tensor of a header.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The tensors of a header in file order; `__metadata__` is checked and dropped.
struct Header(Vec<(String, Entry)>);

impl<'de> serde::Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                // Not reserved from a hint: the input decides how long this grows.
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<HashMap<String, String>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn parse(path: &Path, bytes: &Bytes, limits: &Limits) -> Result<Vec<Parsed>, Error> {
    let available = bytes.len() as u64;
    let truncated = |what, offset, needed| Error::Truncated {
        path: path.into(),
        what,
        offset,
        needed,
        available: available.saturating_sub(offset),
    };
    let Some(length) = bytes.first_chunk::<8>() else { return Err(truncated("header length", 0, 8)) };
    let length = u64::from_le_bytes(*length);
    // Known before the limit is looked at: a file that is no safetensors at all claims absurd lengths too.
    if length > available - 8 {
        return Err(truncated("JSON header", 8, length));
    }
    if length > limits.json_bytes as u64 {
        let max = limits.json_bytes as u64;
        return Err(Error::Limit { path: path.into(), what: "bytes of JSON header", found: length, max });
    }
    let data_start = 8 + length;
    let header: Header = serde_json::from_slice(&bytes[8..data_start as usize])
        .map_err(|source| Error::Json { path: path.into(), source })?;
    if header.0.len() > limits.tensors {
        let (found, max) = (header.0.len() as u64, limits.tensors as u64);
        return Err(Error::Limit { path: path.into(), what: "tensor count", found, max });
    }
    let mut names = HashSet::new();
    if let Some((name, _)) = header.0.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(Error::DuplicateName { path: path.into(), what: "tensor", name: name.clone() });
    }
    check_coverage(path, &header.0, data_start, available)?;
    header.0.into_iter().map(|(name, entry)| place(path, bytes, data_start, name, entry)).collect()
}

/// Every byte of the data belongs to exactly one tensor.
fn check_coverage(
    path: &Path,
    entries: &[(String, Entry)],
    data_start: u64,
    file_bytes: u64,
) -> Result<(), Error> {
    let mut ranges: Vec<(u64, u64, &str)> =
        entries.iter().map(|(name, e)| (e.data_offsets.0, e.data_offsets.1, name.as_str())).collect();
    ranges.sort_unstable();
    let mut end = 0;
    let mut last = "";
    for (start, stop, name) in ranges {
        let offset = data_start.saturating_add(start);
        if stop < start || data_start.checked_add(stop).is_none_or(|e| e > file_bytes) {
            let bytes = stop.saturating_sub(start);
            return Err(Error::OutOfRange {
                path: path.into(),
                tensor: name.into(),
                offset,
                bytes,
                file_bytes,
            });
        }
        if start < end {
            return Err(Error::Overlap {
                path: path.into(),
                tensor: name.into(),
                other: last.into(),
                offset,
            });
        }
        if start > end {
            return Err(Error::Hole { path: path.into(), offset: data_start + end, bytes: start - end });
        }
        (end, last) = (stop, name);
    }
    let left = file_bytes - data_start - end;
    if left > 0 {
        return Err(Error::Hole { path: path.into(), offset: data_start + end, bytes: left });
    }
    Ok(())
}

fn place(path: &Path, bytes: &Bytes, data_start: u64, name: String, entry: Entry) -> Result<Parsed, Error> {
    let (start, stop) = entry.data_offsets;
    let found = stop - start;
    let range = (data_start + start) as usize..(data_start + stop) as usize;
    let bytes =
        bytes.slice(range).ok_or_else(|| Error::MissingTensor { path: path.into(), tensor: name.clone() })?;
    let known = match entry.dtype.as_str() {
        "F32" => format::by_name("f32"),
        "F16" => format::by_name("f16"),
        "BF16" => format::by_name("bf16"),
        _ => None,
    };
    let Some(format) = known else {
        return Ok(Parsed { name, kind: Kind::Unsupported(entry.dtype), bytes });
    };
    let bad = |reason| Error::BadShape {
        path: path.into(),
        tensor: name.clone(),
        dimensions: entry.shape.clone(),
        reason,
    };
    // A scalar has no dimensions; here it is a row of one.
    let dimensions: Option<Vec<usize>> = if entry.shape.is_empty() {
        Some(vec![1])
    } else {
        entry.shape.iter().map(|&d| usize::try_from(d).ok()).collect()
    };
    let shape = dimensions
        .filter(|d| d.len() <= Shape::MAX_DIMENSIONS)
        .and_then(|d| Shape::new(&d).ok())
        .ok_or_else(|| bad("more dimensions or elements than a tensor here can have"))?;
    let expected = format.tensor_bytes(&shape).map_err(|_| bad("rows are not whole blocks"))? as u64;
    if expected != found {
        return Err(Error::Length { path: path.into(), tensor: name, expected, found });
    }
    let info = TensorInfo { name: name.clone(), shape, format, bytes: expected as usize };
    Ok(Parsed { name, kind: Kind::Known(info), bytes })
}

fn json_files(folder: &Path, limits: &Limits) -> Result<HuggingFace, Error> {
    let config = folder.join("config.json");
    let json = |name: &str| read_json(&folder.join(name), limits);
    let bytes = |name: &str| read_capped(&folder.join(name), limits);
    Ok(HuggingFace {
        folder: folder.into(),
        config: read_json(&config, limits)?.ok_or(Error::MissingFile {
            path: config,
            hint: "it lies beside the weights and describes the network",
        })?,
        generation_config: json("generation_config.json")?,
        tokenizer: bytes("tokenizer.json")?,
        tokenizer_model: bytes("tokenizer.model")?,
        vocab: bytes("vocab.json")?,
        merges: bytes("merges.txt")?,
        added_tokens: json("added_tokens.json")?,
        special_tokens_map: json("special_tokens_map.json")?,
        tokenizer_config: json("tokenizer_config.json")?,
        chat_template: bytes("chat_template.jinja")?
            .map(|bytes| {
                String::from_utf8(bytes).map_err(|_| Error::BadUtf8 {
                    path: folder.join("chat_template.jinja"),
                    what: "chat template",
                    offset: 0,
                })
            })
            .transpose()?,
    })
}

fn read_json(path: &Path, limits: &Limits) -> Result<Option<serde_json::Value>, Error> {
    let Some(bytes) = read_capped(path, limits)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Json { path: path.into(), source })
}

/// The file's bytes, or `None` where there is no such file.
fn read_capped(path: &Path, limits: &Limits) -> Result<Option<Vec<u8>>, Error> {
    read_file(path, Links::InsideModel, limits.json_bytes)
}
