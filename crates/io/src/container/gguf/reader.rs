//! Reads a GGUF file. The header is parsed and checked when the file is opened. Tensors are returned without a copy.

use super::cursor::Cursor;
use super::{ALIGNMENT_KEY, ARRAY_DEPTH, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, types};
use crate::{Array, Checkpoint, Error, Limits, MappedFile, Meta, Metadata, Storage, TensorInfo, Value};
use kvant_core::{Bytes, Shape, Tensor, format};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A memory-mapped GGUF file.
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    meta: Meta,
    tensors: Vec<TensorInfo>,
    /// Maps the name of a tensor to its index in `tensors` and its offset in the file in bytes.
    places: HashMap<String, (usize, usize)>,
}

impl GgufFile {
    /// Maps the file `path` into memory and parses its header.
    ///
    /// # Errors
    /// An error for every fault of the file, with its place.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, Error> {
        Self::parse(path, MappedFile::open(path)?.into_bytes(), limits)
    }

    /// Parses the header of a GGUF file with the content `bytes`. `path` is used only in errors.
    ///
    /// # Errors
    /// An error for every fault of the file, with its place.
    pub fn parse(path: &Path, bytes: Bytes, limits: &Limits) -> Result<Self, Error> {
        let mut cursor = Cursor::new(path, limits, &bytes);
        let magic: [u8; 4] = cursor.array("magic")?;
        if &magic != MAGIC {
            return Err(Error::BadMagic {
                path: path.into(),
                found: String::from_utf8_lossy(&magic).into_owned(),
            });
        }
        version(&mut cursor)?;
        // A tensor info takes 24 bytes, plus the bytes of its name and dimensions. A metadata entry takes at least 13
        // bytes (empty key, value of one byte).
        let tensor_count = cursor.count("tensor count", 24, limits.tensors)?;
        let entry_count = cursor.count("metadata count", 13, limits.metadata_entries)?;
        let metadata = metadata(&mut cursor, entry_count)?;
        let alignment = alignment(path, &metadata)?;
        let raw = (0..tensor_count).map(|_| RawInfo::read(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        let data_start = cursor.offset().next_multiple_of(alignment);
        let file = Extent { path, bytes: bytes.len() as u64, data_start, alignment };
        // A tensor of an unknown type ends at the beginning of the next tensor.
        let mut starts: Vec<u64> = raw.iter().map(|info| info.offset).collect();
        starts.sort_unstable();
        let placed = raw.into_iter().map(|info| info.place(&file, &starts)).collect::<Result<Vec<_>, _>>()?;
        check_names_and_overlap(path, &placed)?;
        let places =
            placed.iter().enumerate().map(|(i, (info, start))| (info.name.clone(), (i, *start))).collect();
        let tensors = placed.into_iter().map(|(info, _)| info).collect();
        Ok(Self { path: path.into(), bytes: bytes.clone(), meta: Meta::Gguf(metadata), tensors, places })
    }
}

impl Checkpoint for GgufFile {
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
        info.tensor(&self.path, bytes)
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|(index, _)| &self.tensors[*index])
    }

    fn stored_bytes(&self, name: &str) -> Option<Bytes> {
        let &(index, start) = self.places.get(name)?;
        self.bytes.slice(start..start + self.tensors[index].bytes)
    }
}

fn version(cursor: &mut Cursor) -> Result<(), Error> {
    let found = cursor.u32("version")?;
    let hint = match found {
        2 | 3 => return Ok(()),
        1 => "convert the model again with a current converter",
        _ if (1..=3).contains(&found.swap_bytes()) => {
            "the file is big endian: convert it for little-endian machines"
        }
        _ => "is the file damaged, or newer than this program?",
    };
    Err(Error::Version { path: cursor.path.into(), found, hint })
}

fn alignment(path: &Path, metadata: &Metadata) -> Result<u64, Error> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_u64() {
        Some(n) if n.is_power_of_two() && (1..=1 << 20).contains(&n) => Ok(n),
        _ => Err(Error::BadMetadata {
            path: path.into(),
            key: ALIGNMENT_KEY.into(),
            expected: "a power of two up to 2^20",
            found: format!("{value:?}"),
        }),
    }
}

fn metadata(cursor: &mut Cursor, count: usize) -> Result<Metadata, Error> {
    let mut metadata = Metadata::default();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let key = cursor.string("metadata key")?;
        let kind = cursor.u32("metadata type")?;
        let value = value(cursor, &key, kind)?;
        if !seen.insert(key.clone()) {
            return Err(Error::DuplicateName { path: cursor.path.into(), what: "metadata key", name: key });
        }
        metadata.push(key, value);
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor, key: &str, kind: u32) -> Result<Value, Error> {
    const WHAT: &str = "metadata value";
    Ok(match kind {
        types::U8 => Value::U8(u8::from_le_bytes(cursor.array(WHAT)?)),
        types::I8 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
        types::U16 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
        types::I16 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
        types::U32 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
        types::I32 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
        types::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
        types::BOOL => Value::Bool(boolean(cursor, key)?),
        types::STRING => Value::String(cursor.string(WHAT)?),
        types::ARRAY => Value::Array(array(cursor, key, ARRAY_DEPTH)?),
        types::U64 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
        types::I64 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
        types::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        found => return Err(bad_type(cursor, key, found)),
    })
}

/// The error for the type id `found`, which was just read.
fn bad_type(cursor: &Cursor, key: &str, found: u32) -> Error {
    Error::BadValueType { path: cursor.path.into(), key: key.into(), offset: cursor.offset() - 4, found }
}

fn boolean(cursor: &mut Cursor, key: &str) -> Result<bool, Error> {
    match cursor.array("metadata value")? {
        [0u8] => Ok(false),
        [1] => Ok(true),
        [other] => Err(Error::BadMetadata {
            path: cursor.path.into(),
            key: key.into(),
            expected: "a truth value of 0 or 1",
            found: other.to_string(),
        }),
    }
}

/// Reads an array. `depth` is the number of nesting levels that are still allowed.
fn array(cursor: &mut Cursor, key: &str, depth: usize) -> Result<Array, Error> {
    let kind = cursor.u32("array type")?;
    let each = match kind {
        types::U8 | types::I8 | types::BOOL => 1,
        types::U16 | types::I16 => 2,
        types::U32 | types::I32 | types::F32 => 4,
        types::STRING | types::U64 | types::I64 | types::F64 => 8,
        types::ARRAY => 12,
        found => return Err(bad_type(cursor, key, found)),
    };
    let count = cursor.count("array elements", each, cursor.limits.array_elements)?;
    macro_rules! numbers {
        ($variant:ident, $type:ty) => {{
            let bytes = cursor.take(count as u64 * each, "array elements")?;
            cursor.charge(bytes.len())?;
            Array::$variant(
                bytes
                    .as_chunks::<{ size_of::<$type>() }>()
                    .0
                    .iter()
                    .map(|b| <$type>::from_le_bytes(*b))
                    .collect(),
            )
        }};
    }
    Ok(match kind {
        types::U8 => numbers!(U8, u8),
        types::I8 => numbers!(I8, i8),
        types::U16 => numbers!(U16, u16),
        types::I16 => numbers!(I16, i16),
        types::U32 => numbers!(U32, u32),
        types::I32 => numbers!(I32, i32),
        types::F32 => numbers!(F32, f32),
        types::U64 => numbers!(U64, u64),
        types::I64 => numbers!(I64, i64),
        types::F64 => numbers!(F64, f64),
        types::BOOL => {
            cursor.charge(count)?;
            Array::Bool((0..count).map(|_| boolean(cursor, key)).collect::<Result<_, _>>()?)
        }
        types::STRING => {
            Array::String((0..count).map(|_| cursor.string("array string")).collect::<Result<_, _>>()?)
        }
        _ if depth <= 1 => {
            return Err(Error::Limit {
                path: cursor.path.into(),
                what: "depth of nested arrays",
                found: ARRAY_DEPTH as u64 + 1,
                max: ARRAY_DEPTH as u64,
            });
        }
        _ => {
            let mut inner = Vec::new();
            for _ in 0..count {
                cursor.charge(size_of::<Array>())?;
                inner.push(array(cursor, key, depth - 1)?);
            }
            Array::Array(inner)
        }
    })
}

/// Size, beginning of the tensor data and alignment of a file, in bytes.
struct Extent<'a> {
    path: &'a Path,
    bytes: u64,
    data_start: u64,
    alignment: u64,
}

/// An unchecked tensor info. `dimensions` has the outermost dimension first. `offset` is counted in bytes from the
/// beginning of the tensor data.
struct RawInfo {
    name: String,
    dimensions: Vec<u64>,
    type_id: u32,
    offset: u64,
}

impl RawInfo {
    fn read(cursor: &mut Cursor) -> Result<Self, Error> {
        let name = cursor.string("tensor name")?;
        let count = cursor.u32("dimension count")?;
        if count == 0 || count as usize > MAX_DIMENSIONS {
            return Err(Error::BadShape {
                path: cursor.path.into(),
                tensor: name,
                dimensions: Vec::new(),
                reason: "a tensor has 1 to 4 dimensions",
            });
        }
        let mut dimensions = (0..count).map(|_| cursor.u64("dimension")).collect::<Result<Vec<_>, _>>()?;
        dimensions.reverse();
        let type_id = cursor.u32("tensor type")?;
        let offset = cursor.u64("tensor offset")?;
        Ok(Self { name, dimensions, type_id, offset })
    }

    /// Checks a tensor info. Returns the description of the tensor and its offset in the file in bytes. `starts` has
    /// the offsets of all tensors in ascending order.
    fn place(self, file: &Extent, starts: &[u64]) -> Result<(TensorInfo, usize), Error> {
        let path = file.path;
        let (storage, shape) = (self.storage(), self.shape(path)?);
        let block = match &storage {
            Storage::Format(format) => {
                let block = format.block();
                Some((block.elements as u64, block.bytes as u64))
            }
            Storage::Numbers { kind, .. } => Some((1, kind.bytes() as u64)),
            Storage::Unsupported(_) => types::tensor_type(self.type_id).and_then(|t| t.block),
        };
        let bytes = match block {
            Some((elements, _)) if !(shape.columns() as u64).is_multiple_of(elements) => {
                return Err(Error::NotWholeBlocks {
                    path: path.into(),
                    tensor: self.name.clone(),
                    columns: shape.columns() as u64,
                    block_elements: elements as usize,
                    format: types::tensor_type(self.type_id).map_or("", |t| t.name),
                });
            }
            // No overflow: a `Shape` guarantees that its number of elements times eight bytes fits, and no block takes
            // more than eight bytes for each element.
            Some((elements, bytes)) => shape.elements() as u64 / elements * bytes,
            None => {
                let next = starts.get(starts.partition_point(|&start| start <= self.offset)).copied();
                let end = next.unwrap_or(file.bytes.saturating_sub(file.data_start));
                end.saturating_sub(self.offset)
            }
        };
        if !self.offset.is_multiple_of(file.alignment) {
            return Err(Error::Misaligned {
                path: path.into(),
                tensor: self.name,
                offset: self.offset,
                alignment: file.alignment,
            });
        }
        let start = file
            .data_start
            .checked_add(self.offset)
            .filter(|s| s.checked_add(bytes).is_some_and(|e| e <= file.bytes));
        let Some(start) = start else {
            return Err(Error::OutOfRange {
                path: path.into(),
                tensor: self.name,
                offset: file.data_start.saturating_add(self.offset),
                bytes,
                file_bytes: file.bytes,
            });
        };
        Ok((TensorInfo { name: self.name, shape, storage, bytes: bytes as usize }, start as usize))
    }

    fn storage(&self) -> Storage {
        let Some(found) = types::tensor_type(self.type_id) else {
            return Storage::Unsupported(format!("number {}", self.type_id).into());
        };
        match (format::by_name(found.name), types::number_type(found.name)) {
            (Some(format), _) => Storage::Format(format),
            (None, Some(kind)) => Storage::Numbers { kind, widened: kind.widened() },
            (None, None) => Storage::Unsupported(found.name.into()),
        }
    }

    fn shape(&self, path: &Path) -> Result<Shape, Error> {
        let bad = |reason| Error::BadShape {
            path: path.into(),
            tensor: self.name.clone(),
            dimensions: self.dimensions.clone(),
            reason,
        };
        if self.dimensions.contains(&0) {
            return Err(bad("no dimension may be 0"));
        }
        let dimensions: Option<Vec<usize>> =
            self.dimensions.iter().map(|&d| usize::try_from(d).ok()).collect();
        dimensions.and_then(|d| Shape::new(&d).ok()).ok_or_else(|| bad("more elements than memory can hold"))
    }
}

fn check_names_and_overlap(path: &Path, placed: &[(TensorInfo, usize)]) -> Result<(), Error> {
    let mut names = HashSet::new();
    for (info, _) in placed {
        if !names.insert(info.name.as_str()) {
            return Err(Error::DuplicateName { path: path.into(), what: "tensor", name: info.name.clone() });
        }
    }
    let mut by_start: Vec<_> = placed.iter().collect();
    by_start.sort_by_key(|(_, start)| *start);
    for pair in by_start.windows(2) {
        let ((before, start), (after, next)) = (pair[0], pair[1]);
        if start + before.bytes > *next {
            return Err(Error::Overlap {
                path: path.into(),
                tensor: after.name.clone(),
                other: before.name.clone(),
                offset: *next as u64,
            });
        }
    }
    Ok(())
}
