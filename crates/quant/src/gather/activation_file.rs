//! One activation of every calibration context, in a file: memory stays one context, whatever the text's length.

use crate::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Contexts of equal length, `tokens × columns` numbers each.
pub struct ActivationFile {
    path: PathBuf,
    file: File,
    numbers: usize,
}

impl ActivationFile {
    /// Opens or makes the file; `numbers` is the most that a context can have.
    ///
    /// # Errors
    /// What is no regular file, or has a second name; what the file system says.
    pub fn open(path: &Path, numbers: usize) -> Result<Self, Error> {
        let file = kvant_io::open_for_update(path)?;
        Ok(Self { path: path.to_owned(), file, numbers })
    }

    /// A file without a name in the folder of `beside`: it is gone with the program.
    ///
    /// # Errors
    /// What the file system says.
    pub fn unnamed(beside: &Path, numbers: usize) -> Result<Self, Error> {
        let folder = beside.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::tempfile_in(folder);
        let file = file.map_err(|source| Error::Work { path: folder.to_owned(), source })?;
        Ok(Self { path: folder.to_owned(), file, numbers })
    }

    fn fail(&self, source: std::io::Error) -> Error {
        Error::Work { path: self.path.clone(), source }
    }

    fn seek(&mut self, context: usize) -> std::io::Result<u64> {
        self.file.seek(SeekFrom::Start((context * self.numbers * size_of::<f32>()) as u64))
    }

    /// The first `count` numbers of one context.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read(&mut self, context: usize, count: usize) -> Result<Vec<f32>, Error> {
        let mut numbers = vec![0.0f32; count];
        let bytes = bytemuck::cast_slice_mut(&mut numbers);
        self.seek(context).and_then(|_| self.file.read_exact(bytes)).map_err(|e| self.fail(e))?;
        Ok(numbers)
    }

    /// Replaces one context.
    ///
    /// # Errors
    /// What the file system says, a full disk above all.
    pub fn write(&mut self, context: usize, numbers: &[f32]) -> Result<(), Error> {
        assert!(numbers.len() <= self.numbers, "a context has at most {} numbers", self.numbers);
        let bytes = bytemuck::cast_slice(numbers);
        self.seek(context).and_then(|_| self.file.write_all(bytes)).map_err(|e| self.fail(e))
    }

    /// blake3 over what so many contexts take. It is not forced to the disk, which takes longer than solving a small
    /// block: after a power cut the digest tells.
    ///
    /// # Errors
    /// What the file system says.
    pub fn digest(&mut self, contexts: usize) -> Result<blake3::Hash, Error> {
        let mut hasher = blake3::Hasher::new();
        self.seek(0).map_err(|e| self.fail(e))?;
        // A file may have been made longer, even endless.
        let stored = (&self.file).take((contexts * self.numbers * size_of::<f32>()) as u64);
        hasher.update_reader(stored).map_err(|e| self.fail(e))?;
        Ok(hasher.finalize())
    }
}
