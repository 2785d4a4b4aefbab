//! Writing a GGUF file, version 3: header and infos at once, tensors at planned offsets in any order, then a rename.
//!
//! A thread forces what is written to the disk while more is made, so that little is left to wait for at the end.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, types};
use crate::{Array, Error, Plan, PlannedTensor, Sink, Value};
use kvant_core::Tensor;
use std::collections::HashMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tempfile::NamedTempFile;

/// A GGUF file in the making.
pub struct GgufWriter {
    path: PathBuf,
    file: NamedTempFile,
    planned: HashMap<String, Planned>,
    file_bytes: u64,
    force: bool,
    sealed: bool,
    /// Bytes written since a thread was last told to force them to the disk.
    unsynced: usize,
    /// The last thread that was.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// Bytes that are worth a thread that forces them to the disk.
const SYNC_BYTES: usize = 64 << 20;

struct Planned {
    tensor: PlannedTensor,
    offset: u64,
    put: bool,
}

impl GgufWriter {
    /// Bytes of the file that a plan comes to.
    ///
    /// # Errors
    /// A name twice, a shape that its format cannot hold; `path` is named in the error.
    pub fn file_bytes(path: &Path, plan: &Plan) -> Result<u64, Error> {
        Ok(layout(path, plan)?.file_bytes)
    }

    /// Writes the header of all that is planned to a temporary file beside `path`.
    ///
    /// # Errors
    /// An output that exists without `force`, a name twice, a shape that its format cannot hold, a full disk.
    pub fn create(path: &Path, plan: &Plan, force: bool) -> Result<Self, Error> {
        if !force && path.exists() {
            return Err(Error::Exists { path: path.into() });
        }
        let Layout { header, planned, file_bytes } = layout(path, plan)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .tempfile_in(folder)
            .map_err(|source| Error::Io {
                path: path.into(),
                doing: "creating a temporary file beside it",
                source,
            })?;
        let fail = |source: io::Error| write_error(path, source, file_bytes);
        // The holes between tensors stay zero.
        file.as_file().set_len(file_bytes).map_err(fail)?;
        file.write_all(&header).map_err(fail)?;
        let path = path.into();
        Ok(Self { path, file, planned, file_bytes, force, sealed: false, unsynced: 0, syncing: None })
    }
}

impl GgufWriter {
    /// Forces what is written so far to the disk, after what is being forced there already, on a thread of its own.
    fn begin_sync(&mut self) -> Result<(), Error> {
        let file = self.file.as_file().try_clone();
        let file = file.map_err(|source| write_error(&self.path, source, self.file_bytes))?;
        let earlier = self.syncing.take();
        self.unsynced = 0;
        // The earlier thread follows through a channel: a thread that does not start must not take it away. Its error
        // is told but once.
        let (hand_over, take) = std::sync::mpsc::channel();
        let work = move || {
            synced(take.recv().ok().flatten())?;
            file.sync_all()
        };
        match std::thread::Builder::new().name("kvant-sync".to_owned()).spawn(work) {
            Ok(syncing) => {
                // The thread waits for this; it cannot have gone.
                let _ = hand_over.send(earlier);
                self.syncing = Some(syncing);
                Ok(())
            }
            // Without a thread the writer waits for the disk itself.
            Err(_) => synced(earlier)
                .and_then(|()| self.file.as_file().sync_all())
                .map_err(|source| write_error(&self.path, source, self.file_bytes)),
        }
    }
}

/// Waits for the disk.
fn synced(syncing: Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let died = |_| Err(io::Error::other("the thread that forces the file to the disk has died"));
    syncing.map_or(Ok(()), |syncing| syncing.join().unwrap_or_else(died))
}

fn write_error(path: &Path, source: io::Error, needed: u64) -> Error {
    if source.kind() == io::ErrorKind::StorageFull {
        Error::DiskFull { path: path.into(), doing: "writing", needed }
    } else {
        Error::Io { path: path.into(), doing: "writing", source }
    }
}

/// A file before its data.
struct Layout {
    header: Vec<u8>,
    planned: HashMap<String, Planned>,
    file_bytes: u64,
}

fn layout(path: &Path, plan: &Plan) -> Result<Layout, Error> {
    let mut header = Vec::new();
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&3u32.to_le_bytes());
    header.extend_from_slice(&(plan.tensors.len() as u64).to_le_bytes());
    let entries = || plan.metadata.iter().filter(|(key, _)| *key != ALIGNMENT_KEY);
    header.extend_from_slice(&(entries().count() as u64).to_le_bytes());
    for (key, value) in entries() {
        put_string(&mut header, key);
        put_value(&mut header, value);
    }
    let mut planned = HashMap::new();
    let mut offset = 0u64;
    for tensor in &plan.tensors {
        let (Ok(bytes), Some(id)) =
            (tensor.format.tensor_bytes(&tensor.shape), types::type_id(tensor.format.name()))
        else {
            return Err(Error::NotWholeBlocks {
                path: path.into(),
                tensor: tensor.name.clone(),
                columns: tensor.shape.columns() as u64,
                block_elements: tensor.format.block().elements,
                format: tensor.format.name(),
            });
        };
        put_string(&mut header, &tensor.name);
        header.extend_from_slice(&(tensor.shape.dimensions().len() as u32).to_le_bytes());
        for &d in tensor.shape.dimensions().iter().rev() {
            header.extend_from_slice(&(d as u64).to_le_bytes());
        }
        header.extend_from_slice(&id.to_le_bytes());
        header.extend_from_slice(&offset.to_le_bytes());
        let place = Planned { tensor: tensor.clone(), offset, put: false };
        if planned.insert(tensor.name.clone(), place).is_some() {
            return Err(Error::DuplicateName {
                path: path.into(),
                what: "tensor",
                name: tensor.name.clone(),
            });
        }
        offset = (offset + bytes as u64).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    let data_start = (header.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT);
    for place in planned.values_mut() {
        place.offset += data_start;
    }
    Ok(Layout { header, planned, file_bytes: data_start + offset })
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($kind:expr, $x:expr) => {{
            out.extend_from_slice(&$kind.to_le_bytes());
            out.extend_from_slice(&$x.to_le_bytes());
        }};
    }
    match value {
        Value::U8(x) => number!(types::U8, x),
        Value::I8(x) => number!(types::I8, x),
        Value::U16(x) => number!(types::U16, x),
        Value::I16(x) => number!(types::I16, x),
        Value::U32(x) => number!(types::U32, x),
        Value::I32(x) => number!(types::I32, x),
        Value::F32(x) => number!(types::F32, x),
        Value::Bool(x) => number!(types::BOOL, u8::from(*x)),
        Value::U64(x) => number!(types::U64, x),
        Value::I64(x) => number!(types::I64, x),
        Value::F64(x) => number!(types::F64, x),
        Value::String(text) => {
            out.extend_from_slice(&types::STRING.to_le_bytes());
            put_string(out, text);
        }
        Value::Array(array) => {
            out.extend_from_slice(&types::ARRAY.to_le_bytes());
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($kind:expr, $elements:expr) => {{
            out.extend_from_slice(&$kind.to_le_bytes());
            out.extend_from_slice(&($elements.len() as u64).to_le_bytes());
            $elements.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(x) => numbers!(types::U8, x),
        Array::I8(x) => numbers!(types::I8, x),
        Array::U16(x) => numbers!(types::U16, x),
        Array::I16(x) => numbers!(types::I16, x),
        Array::U32(x) => numbers!(types::U32, x),
        Array::I32(x) => numbers!(types::I32, x),
        Array::F32(x) => numbers!(types::F32, x),
        Array::U64(x) => numbers!(types::U64, x),
        Array::I64(x) => numbers!(types::I64, x),
        Array::F64(x) => numbers!(types::F64, x),
        Array::Bool(x) => {
            let bytes: Vec<u8> = x.iter().map(|&b| u8::from(b)).collect();
            numbers!(types::BOOL, bytes);
        }
        Array::String(x) => {
            out.extend_from_slice(&types::STRING.to_le_bytes());
            out.extend_from_slice(&(x.len() as u64).to_le_bytes());
            x.iter().for_each(|text| put_string(out, text));
        }
        Array::Array(x) => {
            out.extend_from_slice(&types::ARRAY.to_le_bytes());
            out.extend_from_slice(&(x.len() as u64).to_le_bytes());
            x.iter().for_each(|inner| put_array(out, inner));
        }
    }
}

impl Sink for GgufWriter {
    fn put(&mut self, name: &str, tensor: &Tensor) -> Result<(), Error> {
        let path = || self.path.clone();
        let Some(place) = self.planned.get_mut(name) else {
            return Err(Error::Unplanned { path: path(), tensor: name.into() });
        };
        if place.put {
            return Err(Error::PutTwice { path: path(), tensor: name.into() });
        }
        if tensor.shape() != &place.tensor.shape || tensor.format() != place.tensor.format {
            return Err(Error::NotAsPlanned {
                path: path(),
                tensor: name.into(),
                expected: Box::new((place.tensor.shape, place.tensor.format)),
                found: Box::new((*tensor.shape(), tensor.format())),
            });
        }
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(place.offset))
            .and_then(|_| file.write_all(tensor.bytes()))
            .map_err(|source| write_error(&self.path, source, self.file_bytes))?;
        place.put = true;
        self.unsynced += tensor.bytes().len();
        if self.unsynced >= SYNC_BYTES && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.begin_sync()?;
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<&Path, Error> {
        let mut missing: Vec<&String> =
            self.planned.iter().filter(|(_, p)| !p.put).map(|(name, _)| name).collect();
        missing.sort();
        if let Some(first) = missing.first() {
            return Err(Error::NotPut {
                path: self.path.clone(),
                tensor: (*first).clone(),
                missing: missing.len(),
            });
        }
        if !self.sealed {
            // What the caller checks meanwhile is read from memory.
            self.begin_sync()?;
            self.sealed = true;
        }
        Ok(self.file.path())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.seal()?;
        synced(self.syncing.take()).map_err(|source| write_error(&self.path, source, self.file_bytes))?;
        let persisted =
            if self.force { self.file.persist(&self.path) } else { self.file.persist_noclobber(&self.path) };
        match persisted {
            Ok(file) => {
                readable(&file);
                Ok(())
            }
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { path: self.path })
            }
            Err(e) => Err(Error::Io {
                path: self.path,
                doing: "renaming the temporary file to it",
                source: e.error,
            }),
        }
    }
}

/// Temporary files are private to their owner; the finished one is like any other file.
fn readable(file: &std::fs::File) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Failing to widen the permissions loses nothing; the file is complete and its owner can read it.
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = file;
}
