//! Writes a GGUF file of version 3. The header and all tensor infos are written first. The tensors follow in any order
//! at their planned offsets. At the end the file is renamed to its final name.
//!
//! A background thread ("sync thread") forces written data to the disk while the caller computes the next tensors. So
//! the wait at the end is short.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, types};
use crate::{Array, Error, OutputFile, Plan, PlannedTensor, Sink, Value};
use kvant_core::Tensor;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;

/// A GGUF file that is being written.
pub struct GgufWriter {
    output: OutputFile,
    planned: HashMap<String, Planned>,
    sealed: bool,
    /// Number of bytes that were written since the last start of a sync thread.
    unsynced: usize,
    /// The sync thread that was started last.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// Number of unsynced bytes after which a sync thread is started.
const SYNC_BYTES: usize = 64 << 20;

/// A planned tensor.
struct Planned {
    tensor: PlannedTensor,
    /// Offset in the file in bytes.
    offset: u64,
    /// True if the tensor was written.
    put: bool,
}

impl GgufWriter {
    /// Size in bytes of the file for a plan.
    ///
    /// # Errors
    /// An error for a name that occurs twice, and for a shape that its format cannot hold. `path` is used only in the
    /// error.
    pub fn file_bytes(path: &Path, plan: &Plan) -> Result<u64, Error> {
        Ok(layout(path, plan)?.file_bytes)
    }

    /// Creates a temporary file in the folder of `path` and writes the header for the whole plan.
    ///
    /// # Errors
    /// An error if the output exists and `force` is false, if a name occurs twice, if a format cannot hold its shape,
    /// or if the disk is full.
    pub fn create(path: &Path, plan: &Plan, force: bool) -> Result<Self, Error> {
        let Layout { header, planned, file_bytes } = layout(path, plan)?;
        let mut output = OutputFile::create(path, file_bytes, force)?;
        // `set_len` fills the file with zeros, so the padding between tensors is zero.
        output.file().set_len(file_bytes).map_err(|source| output.failed("writing", source))?;
        output.write(&header)?;
        Ok(Self { output, planned, sealed: false, unsynced: 0, syncing: None })
    }
}

impl GgufWriter {
    /// Starts a sync thread that forces all data written so far to the disk. The new thread first waits for the earlier
    /// sync thread.
    fn begin_sync(&mut self) -> Result<(), Error> {
        let file = self.output.file().try_clone();
        let file = file.map_err(|source| self.output.failed("writing", source))?;
        let earlier = self.syncing.take();
        self.unsynced = 0;
        // The handle of the earlier thread is sent through a channel after the new thread has started. If the new
        // thread cannot start, its closure is dropped. The handle must not be lost with the closure, because it returns
        // the error of the earlier thread only one time.
        let (hand_over, take) = std::sync::mpsc::channel();
        let work = move || {
            synced(take.recv().ok().flatten())?;
            file.sync_all()
        };
        match std::thread::Builder::new().name("kvant-sync".to_owned()).spawn(work) {
            Ok(syncing) => {
                // The new thread waits for this message, so it cannot have ended.
                let _ = hand_over.send(earlier);
                self.syncing = Some(syncing);
                Ok(())
            }
            // No thread could be started, so this call waits for the disk.
            Err(_) => synced(earlier)
                .and_then(|()| self.output.file().sync_all())
                .map_err(|source| self.output.failed("writing", source)),
        }
    }
}

/// Waits until a sync thread has ended, and returns its result. `None` means that there is no sync thread.
fn synced(syncing: Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let died = |_| Err(io::Error::other("the thread that forces the file to the disk has died"));
    syncing.map_or(Ok(()), |syncing| syncing.join().unwrap_or_else(died))
}

/// The file before the tensor data, and the offsets of the planned tensors.
struct Layout {
    header: Vec<u8>,
    planned: HashMap<String, Planned>,
    file_bytes: u64,
}

/// Makes the header of a plan and computes the offsets of its tensors.
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
        let path = || self.output.path().to_owned();
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
        self.output.write_at(place.offset, tensor.bytes())?;
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
                path: self.output.path().to_owned(),
                tensor: (*first).clone(),
                missing: missing.len(),
            });
        }
        if !self.sealed {
            // The caller can check the file during this sync, because it reads the file from the page cache.
            self.begin_sync()?;
            self.sealed = true;
        }
        Ok(self.output.temporary_path())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.seal()?;
        synced(self.syncing.take()).map_err(|source| self.output.failed("writing", source))?;
        self.output.finish()
    }
}
