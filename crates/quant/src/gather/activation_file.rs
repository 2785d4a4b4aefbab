//! A file with one activation of every calibration context. Memory holds only one context, so memory use does not
//! depend on the length of the text.

use crate::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Activations of contexts of equal length, context after context. The activation of a context is tokens × columns f32
/// values.
pub struct ActivationFile {
    path: PathBuf,
    file: File,
    /// Maximum number of values of one context.
    context_values: usize,
}

impl ActivationFile {
    /// Opens or creates the file. A context has at most `context_values` values.
    ///
    /// # Errors
    /// A path that is not a regular file or that has more than one hard link; errors of the file system.
    pub fn open(path: &Path, context_values: usize) -> Result<Self, Error> {
        let file = kvant_io::open_for_update(path)?;
        Ok(Self { path: path.to_owned(), file, context_values })
    }

    /// Creates a file without a name in the parent folder of `beside`. The system deletes the file when it is closed.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn unnamed(beside: &Path, context_values: usize) -> Result<Self, Error> {
        let folder = beside.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::tempfile_in(folder);
        let file = file.map_err(|source| Error::Work { path: folder.to_owned(), source })?;
        Ok(Self { path: folder.to_owned(), file, context_values })
    }

    fn fail(&self, source: std::io::Error) -> Error {
        Error::Work { path: self.path.clone(), source }
    }

    fn seek(&mut self, context: usize) -> std::io::Result<u64> {
        self.file.seek(SeekFrom::Start((context * self.context_values * size_of::<f32>()) as u64))
    }

    /// Reads the first `count` values of one context.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn read(&mut self, context: usize, count: usize) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0f32; count];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.seek(context).and_then(|_| self.file.read_exact(bytes)).map_err(|e| self.fail(e))?;
        Ok(values)
    }

    /// Replaces the values of one context.
    ///
    /// # Errors
    /// Errors of the file system, for example a full disk.
    ///
    /// # Panics
    /// Panics if `values` has more values than a context can have.
    pub fn write(&mut self, context: usize, values: &[f32]) -> Result<(), Error> {
        assert!(values.len() <= self.context_values, "a context has at most {} numbers", self.context_values);
        let bytes = bytemuck::cast_slice(values);
        self.seek(context).and_then(|_| self.file.write_all(bytes)).map_err(|e| self.fail(e))
    }

    /// Returns blake3 over the first `contexts` contexts. The file is not flushed to the disk, because flushing takes
    /// longer than solving a small block. After a power failure the digest detects lost data.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn digest(&mut self, contexts: usize) -> Result<blake3::Hash, Error> {
        let mut hasher = blake3::Hasher::new();
        self.seek(0).map_err(|e| self.fail(e))?;
        // Another program may append data without end, so the read has a limit.
        let stored = (&self.file).take((contexts * self.context_values * size_of::<f32>()) as u64);
        hasher.update_reader(stored).map_err(|e| self.fail(e))?;
        Ok(hasher.finalize())
    }
}
