//! The newer importance file format: a GGUF whose tensors are sums and counts.
//!
//! Metadata: `general.type` = `imatrix`, `imatrix.datasets` (strings), `imatrix.chunk_count` and
//! `imatrix.chunk_size` (u32). The file has two f32 tensors for a tensor NAME of the network: `NAME.in_sum2`, (experts,
//! columns), and `NAME.counts`, (experts, 1). Tensors with other names are ignored, as in upstream.

use super::{Entry, Importance};
use crate::{Error, ImportanceFault};
use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_io::container::gguf::GgufFile;
use kvant_io::{Array, Checkpoint, Limits, Meta, Metadata, Plan, PlannedTensor, Value};
use std::collections::BTreeMap;
use std::path::Path;

const TYPE_KEY: &str = "general.type";
const TYPE: &str = "imatrix";
const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNK_COUNT_KEY: &str = "imatrix.chunk_count";
const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Maximum length of a tensor's name that upstream reads, in bytes (`GGML_MAX_NAME` without the terminating zero).
const MAX_NAME_BYTES: usize = 63;

pub(super) fn parse(path: &Path, bytes: Bytes, limits: &Limits) -> Result<Importance, Error> {
    let file = GgufFile::parse(path, bytes, limits)?;
    let empty = Metadata::default();
    let metadata = if let Meta::Gguf(metadata) = file.meta() { metadata } else { &empty };
    if metadata.get(TYPE_KEY).and_then(Value::as_str) != Some(TYPE) {
        return Err(bad_metadata(path, metadata, TYPE_KEY, "\"imatrix\", as in files of llama-imatrix"));
    }
    // Upstream's quantizer refuses a file without these three metadata keys: datasets, chunk count, chunk size.
    let Some(Value::Array(Array::String(datasets))) = metadata.get(DATASETS_KEY) else {
        return Err(bad_metadata(path, metadata, DATASETS_KEY, "an array of strings"));
    };
    let number = |key| {
        let value = metadata.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        value.ok_or_else(|| bad_metadata(path, metadata, key, "a whole number below 2^32"))
    };
    let (chunk_count, chunk_size) = (number(CHUNK_COUNT_KEY)?, number(CHUNK_SIZE_KEY)?);
    // For each name: (true if the file has a tensor of sums, true if the file has a tensor of counts).
    let mut halves: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for info in file.tensors() {
        if let Some(name) = info.name.strip_suffix(SUMS) {
            halves.entry(name).or_default().0 = true;
        } else if let Some(name) = info.name.strip_suffix(COUNTS) {
            halves.entry(name).or_default().1 = true;
        }
    }
    let mut entries = BTreeMap::new();
    for (name, present) in halves {
        let missing = match present {
            (true, true) => None,
            (true, false) => Some(COUNTS),
            _ => Some(SUMS),
        };
        if let Some(suffix) = missing {
            let source = ImportanceFault::Half { tensor: name.into(), missing: suffix };
            return Err(Error::ImportanceFile { path: path.into(), source });
        }
        entries.insert(name.to_owned(), entry(path, &file, name)?);
    }
    Ok(Importance { entries, datasets: datasets.clone(), chunk_count, chunk_size })
}

fn entry(path: &Path, file: &GgufFile, name: &str) -> Result<Entry, Error> {
    let sums = tensor(path, file, format!("{name}{SUMS}"))?;
    let counts = tensor(path, file, format!("{name}{COUNTS}"))?;
    if sums.shape().rows() != counts.shape().elements() {
        return Err(Error::Io(kvant_io::Error::BadShape {
            path: path.into(),
            tensor: format!("{name}{SUMS}"),
            dimensions: sums.shape().dimensions().iter().map(|&d| d as u64).collect(),
            reason: "it needs as many rows as there are counts",
        }));
    }
    Ok(Entry { sums: sums.decode(), counts: counts.decode() })
}

fn tensor(path: &Path, file: &GgufFile, name: String) -> Result<Tensor, Error> {
    let tensor = file.tensor(&name)?;
    let plain: FormatRef = &format::F32;
    if tensor.format() != plain {
        let source = ImportanceFault::Format { tensor: name, found: tensor.format().name() };
        return Err(Error::ImportanceFile { path: path.into(), source });
    }
    Ok(tensor)
}

fn bad_metadata(path: &Path, metadata: &Metadata, key: &str, expected: &'static str) -> Error {
    // A string from an untrusted file may be long, so the error shows only its beginning.
    let found = match metadata.get(key) {
        None => "nothing".to_owned(),
        Some(Value::Array(_)) => "an array of another type".to_owned(),
        Some(Value::String(text)) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Some(value) => format!("{value:?}"),
    };
    Error::Io(kvant_io::Error::BadMetadata { path: path.into(), key: key.into(), expected, found })
}

pub(super) fn write(importance: &Importance, path: &Path, force: bool) -> Result<(), Error> {
    let mut metadata = Metadata::default();
    metadata.set(TYPE_KEY, Value::String(TYPE.into()));
    metadata.set(DATASETS_KEY, Value::Array(Array::String(importance.datasets.clone())));
    metadata.set(CHUNK_COUNT_KEY, Value::U32(importance.chunk_count));
    metadata.set(CHUNK_SIZE_KEY, Value::U32(importance.chunk_size));
    // Upstream's order: by name, the sums before the counts.
    let mut tensors = Vec::new();
    for (name, entry) in &importance.entries {
        if name.len() + SUMS.len() > MAX_NAME_BYTES {
            let (bytes, max) = (name.len(), MAX_NAME_BYTES - SUMS.len());
            let source = ImportanceFault::LongName { tensor: name.clone(), bytes, max };
            return Err(Error::ImportanceFile { path: path.into(), source });
        }
        let experts = entry.counts.len();
        for (suffix, columns) in [(SUMS, entry.sums.len() / experts), (COUNTS, 1)] {
            // Upstream drops outer dimensions of 1.
            let dimensions = [experts, columns];
            let shape = Shape::new(if experts == 1 { &dimensions[1..] } else { &dimensions })
                .map_err(|source| Error::Shape { tensor: name.clone(), source })?;
            tensors.push(PlannedTensor { name: format!("{name}{suffix}"), shape, format: &format::F32 });
        }
    }
    let plan = Plan { metadata, tensors };
    let mut sink = kvant_io::create(path, &plan, force)?;
    let values = importance.entries.values().flat_map(|entry| [&entry.sums, &entry.counts]);
    for (planned, values) in plan.tensors.iter().zip(values) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = Tensor::new(planned.shape, planned.format, Bytes::from(bytes))
            .map_err(|source| Error::Shape { tensor: planned.name.clone(), source })?;
        sink.put(&planned.name, &tensor)?;
    }
    let read = Importance::read(sink.seal()?, &Limits::default())?;
    if read != *importance {
        let differs = |(name, entry): &(&String, &Entry)| read.entries.get(*name) != Some(*entry);
        let tensor = importance.entries.iter().find(differs).map_or(DATASETS_KEY, |(name, _)| name);
        return Err(Error::ReadBack { path: path.into(), tensor: tensor.into() });
    }
    sink.finish()?;
    Ok(())
}
