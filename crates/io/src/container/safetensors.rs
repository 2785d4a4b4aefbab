//! The safetensors format: a single file, or a Hugging Face folder with one or several files.
//!
//! Layout (upstream: `safetensors/src/tensor.rs`): header length u64, a JSON object name → {dtype, shape,
//! data_offsets}, then the tensor data without gaps. `model.safetensors.index.json` lists the shards of a model with
//! several files. The header is parsed here and not by the `safetensors` crate, because errors here name the tensor,
//! and a name that occurs twice is an error.

use super::modules;
use crate::json::{beside, read_json, refuse_pointer};
use crate::number::scaled;
use crate::{Checkpoint, Error, HuggingFace, Limits, MappedFile, Meta, NumberType, Storage, TensorInfo};
use kvant_core::{Bytes, Shape, Tensor, format};
use serde::de::{Deserializer, MapAccess, Visitor};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Suffix that is appended to the name of a tensor of FP8 weights. The result is the name of the tensor of their
/// scales, as in DeepSeek-V3. The weights are multiplied by the scales, although the suffix contains `inv`.
pub const F8_SCALES: &str = "_scale_inv";

/// A Hugging Face checkpoint: its JSON files, and the tensors of one or several memory-mapped files.
pub struct SafetensorsFolder {
    path: PathBuf,
    meta: Meta,
    tensors: Vec<TensorInfo>,
    /// Maps the name of a tensor to its index in `tensors` and its bytes.
    places: HashMap<String, (usize, Bytes)>,
}

impl SafetensorsFolder {
    /// Opens a Hugging Face folder, or a single `.safetensors` file. A folder has either `model.safetensors` or several
    /// shards with an index file. The folder of a single file must also have a `config.json`.
    ///
    /// # Errors
    /// An error for every fault of a file, with its place.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let is_folder = path.is_dir();
        let folder = if is_folder { path } else { path.parent().unwrap_or(Path::new(".")) };
        let meta = Meta::HuggingFace(Box::new(json_files(folder, limits)?));
        let mut all = Self { path: path.into(), meta, tensors: Vec::new(), places: HashMap::new() };
        if !is_folder {
            all.add(path, limits)?;
        } else if let Some(index) = read_json(&folder.join(INDEX), limits)? {
            all.add_shards(folder, &index, limits)?;
        } else {
            all.add(&folder.join(SINGLE), limits)?;
        }
        if is_folder {
            all.add_modules(folder, limits)?;
        }
        for index in 0..all.tensors.len() {
            let has_scales = all.scales_name(&all.tensors[index]).is_some();
            if let (true, Storage::Numbers { widened, .. }) = (has_scales, &mut all.tensors[index].storage) {
                // The product of an FP8 value and a scale needs more precision than `f16`.
                *widened = &format::F32;
            }
        }
        Ok(all)
    }

    /// Adds the tensors of the modules that have their own. The name of the module's folder and a slash precede their
    /// names.
    fn add_modules(&mut self, folder: &Path, limits: &Limits) -> Result<(), Error> {
        let Meta::HuggingFace(files) = &self.meta else { return Ok(()) };
        let folders = files.modules.iter().filter(|m| m.kind == "Dense" && !m.folder.is_empty());
        let names: Vec<String> = folders.map(|module| module.folder.clone()).collect();
        names
            .iter()
            .try_for_each(|name| self.add_named(&folder.join(name).join(SINGLE), &format!("{name}/"), limits))
    }

    /// Adds the tensors of one `.safetensors` file.
    fn add(&mut self, file: &Path, limits: &Limits) -> Result<(), Error> {
        self.add_named(file, "", limits)
    }

    /// Adds the tensors of one `.safetensors` file, with `prefix` before their names.
    fn add_named(&mut self, file: &Path, prefix: &str, limits: &Limits) -> Result<(), Error> {
        let absent = |source: &io::Error| {
            source.kind() == io::ErrorKind::NotFound && std::fs::symlink_metadata(file).is_err()
        };
        let bytes = match MappedFile::open(file) {
            Err(Error::Io { source, .. }) if absent(&source) => {
                return Err(Error::MissingFile {
                    path: file.into(),
                    hint: "a Hugging Face folder holds model.safetensors or model.safetensors.index.json",
                });
            }
            mapped => mapped?.into_bytes(),
        };
        refuse_pointer(file, &bytes)?;
        for (mut info, bytes) in parse(file, &bytes, limits)? {
            info.name.insert_str(0, prefix);
            let name = info.name.clone();
            if self.places.insert(name.clone(), (self.tensors.len(), bytes)).is_some() {
                return Err(Error::DuplicateName { path: file.into(), what: "tensor", name });
            }
            self.tensors.push(info);
        }
        Ok(())
    }

    /// Adds the tensors of all shards in `index`, the parsed index file. Checks that every tensor is in the shard that
    /// the index names.
    fn add_shards(&mut self, folder: &Path, index: &serde_json::Value, limits: &Limits) -> Result<(), Error> {
        let path = folder.join(INDEX);
        let bad = |found: &str| Error::BadMetadata {
            path: path.clone(),
            key: "weight_map".into(),
            expected: "an object tensor name → shard file name",
            found: found.into(),
        };
        let map = index.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("something else"))?;
        if map.is_empty() {
            return Err(bad("an empty object"));
        }
        let mut shards: Vec<&str> = Vec::new();
        let mut seen = HashSet::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().ok_or_else(|| bad("a shard that is no string"))?;
            // A name with a path separator could lead out of the folder.
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
            if in_shard.get(tensor).is_none_or(|s| *s != shard) {
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
        let missing = || Error::MissingTensor { path: self.path.clone(), tensor: name.into() };
        let (info, bytes) = self.info(name).zip(self.stored_bytes(name)).ok_or_else(missing)?;
        let tensor = info.tensor(&self.path, bytes)?;
        match self.scales_name(info) {
            None => Ok(tensor),
            Some(scales) => self.scaled(name, &tensor, scales),
        }
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|(index, _)| &self.tensors[*index])
    }

    fn stored_bytes(&self, name: &str) -> Option<Bytes> {
        self.places.get(name).map(|(_, bytes)| bytes.clone())
    }
}

impl SafetensorsFolder {
    /// The name of the tensor of scales for a tensor of FP8 weights; `None` if the checkpoint has no such tensor.
    fn scales_name(&self, info: &TensorInfo) -> Option<String> {
        let Storage::Numbers { kind, .. } = &info.storage else { return None };
        let name = format!("{}{F8_SCALES}", info.name);
        (kind.is_f8() && self.places.contains_key(&name)).then_some(name)
    }

    /// Multiplies FP8 weights by their scales. There is one scale for each block of
    /// `quantization_config.weight_block_size` rows and columns (128 by 128 if `config.json` has no such key).
    fn scaled(&self, name: &str, tensor: &Tensor, scales: String) -> Result<Tensor, Error> {
        let fault = |reason| Error::Scales {
            path: self.path.clone(),
            tensor: name.into(),
            scales: scales.clone(),
            reason,
        };
        let values = self.tensor(&scales)?;
        let Meta::HuggingFace(folder) = &self.meta else { return Err(fault("there is no config.json")) };
        let block = match folder.config.pointer("/quantization_config/weight_block_size") {
            None | Some(serde_json::Value::Null) => (128, 128),
            Some(size) => {
                let side =
                    |i: usize| size[i].as_u64().filter(|n| (1..=1 << 20).contains(n)).map(|n| n as usize);
                side(0).zip(side(1)).ok_or_else(|| fault("weight_block_size is not two numbers from 1 up"))?
            }
        };
        scaled(tensor, &values, block)
            .ok_or_else(|| fault("expected one scale for each block, or one for all"))
    }
}

/// The entry of one tensor in a header. `data_offsets` are the start (inclusive) and the end (exclusive), in bytes from
/// the beginning of the tensor data.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The entries of a header in file order. `__metadata__` is checked but not stored.
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
                // No capacity is reserved from a size hint, because the hint is not trusted. The vector grows with the
                // entries that are really in the file.
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

/// Parses the header of a file. Returns the description and the bytes of every tensor.
fn parse(path: &Path, bytes: &Bytes, limits: &Limits) -> Result<Vec<(TensorInfo, Bytes)>, Error> {
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
    // This is checked before the limit: a file of another format also shows an absurd length here, and "truncated" is
    // the better message.
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

/// Checks that every byte of the tensor data belongs to exactly one tensor.
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

/// Data types that kvant does not read, with the number of bits of one value.
const UNSUPPORTED: &[(&str, u64)] = &[
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I32", 32),
    ("U32", 32),
    ("I64", 64),
    ("U64", 64),
    ("C64", 64),
];

fn storage(data_type: String) -> Storage {
    let plain = match data_type.as_str() {
        "F32" => format::by_name("f32"),
        "F16" => format::by_name("f16"),
        "BF16" => format::by_name("bf16"),
        _ => None,
    };
    match (plain, NumberType::ALL.into_iter().find(|t| t.name() == data_type)) {
        (Some(format), _) => Storage::Format(format),
        (None, Some(kind)) => Storage::Numbers { kind, widened: kind.widened() },
        (None, None) => Storage::Unsupported(data_type.into()),
    }
}

/// Checks the entry of one tensor. Returns the description and the bytes of the tensor.
fn place(
    path: &Path,
    bytes: &Bytes,
    data_start: u64,
    name: String,
    entry: Entry,
) -> Result<(TensorInfo, Bytes), Error> {
    let (start, stop) = entry.data_offsets;
    let found = stop - start;
    let range = (data_start + start) as usize..(data_start + stop) as usize;
    let bytes =
        bytes.slice(range).ok_or_else(|| Error::MissingTensor { path: path.into(), tensor: name.clone() })?;
    let bad = |reason| Error::BadShape {
        path: path.into(),
        tensor: name.clone(),
        dimensions: entry.shape.clone(),
        reason,
    };
    // A scalar has no dimensions. Here it becomes a row of one element.
    let dimensions: Option<Vec<usize>> = match entry.shape.len() {
        0 => Some(vec![1]),
        1..=Shape::MAX_DIMENSIONS => entry.shape.iter().map(|&d| usize::try_from(d).ok()).collect(),
        _ => None,
    };
    let shape = dimensions
        .and_then(|d| Shape::new(&d).ok())
        .ok_or_else(|| bad("more dimensions or elements than a tensor here can have"))?;
    let elements = shape.elements() as u64;
    let storage = storage(entry.dtype);
    let expected = match &storage {
        Storage::Format(format) => {
            Some(format.tensor_bytes(&shape).map_err(|_| bad("rows are not whole blocks"))? as u64)
        }
        Storage::Numbers { kind, .. } => Some(elements * kind.bytes() as u64),
        Storage::Unsupported(name) => {
            let bits = UNSUPPORTED.iter().find(|(n, _)| n == name).map(|(_, bits)| *bits);
            bits.and_then(|bits| elements.checked_mul(bits)).map(|bits| bits.div_ceil(8))
        }
    };
    if let Some(expected) = expected.filter(|&expected| expected != found) {
        return Err(Error::Length { path: path.into(), tensor: name, expected, found });
    }
    Ok((TensorInfo { name, shape, storage, bytes: found as usize }, bytes))
}

/// Reads the JSON files and tokenizer files of a folder. Only a missing or unreadable `config.json` is an error.
fn json_files(folder: &Path, limits: &Limits) -> Result<HuggingFace, Error> {
    let config = folder.join("config.json");
    let config = read_json(&config, limits)?.ok_or(Error::MissingFile {
        path: config,
        hint: "it lies beside the weights and describes the network",
    })?;
    let unreadable = RefCell::new(Vec::new());
    let json = |name: &str| kept(&unreadable, read_json(&folder.join(name), limits));
    let bytes = |name: &str| kept(&unreadable, beside(&folder.join(name), limits));
    let text = |name: &str| {
        let bytes = bytes(name)?;
        let bad = |e: std::string::FromUtf8Error| Error::BadUtf8 {
            path: folder.join(name),
            what: "text",
            offset: e.utf8_error().valid_up_to() as u64,
        };
        kept(&unreadable, String::from_utf8(bytes).map(Some).map_err(bad))
    };
    let (tokenizer, tokenizer_model) = (bytes("tokenizer.json"), bytes("tokenizer.model"));
    let (vocab, merges) = (bytes("vocab.json"), bytes("merges.txt"));
    let (added_tokens, special_tokens_map) = (json("added_tokens.json"), json("special_tokens_map.json"));
    let (tokenizer_config, generation_config) =
        (json("tokenizer_config.json"), json("generation_config.json"));
    let chat_template = text("chat_template.jinja");
    let modules = kept(&unreadable, modules::read(folder, limits).map(Some)).unwrap_or_default();
    Ok(HuggingFace {
        folder: folder.into(),
        config,
        generation_config,
        tokenizer,
        tokenizer_model,
        vocab,
        merges,
        added_tokens,
        special_tokens_map,
        tokenizer_config,
        chat_template,
        modules,
        unreadable: unreadable.into_inner(),
    })
}

/// Returns the content of a file; `None` if the file does not exist or cannot be read. The error of an unreadable file
/// is added to `unreadable`, for callers that need the file.
fn kept<T>(unreadable: &RefCell<Vec<Arc<Error>>>, found: Result<Option<T>, Error>) -> Option<T> {
    found.unwrap_or_else(|error| {
        unreadable.borrow_mut().push(Arc::new(error));
        None
    })
}
