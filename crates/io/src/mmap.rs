//! Maps files into memory, read only.
//!
//! Invariant: the mapping exists as long as any [`Bytes`] that refers to it, and the address and length of its slice
//! never change. Another process may shorten the file while it is mapped. A read beyond the new end of the file raises
//! the signal `SIGBUS`. A program that has called [`crate::guard_mapped_files`] then prints a message and ends with
//! status 1. Not covered here: writing through a mapping.
#![allow(unsafe_code)]

use crate::{Error, Links, guard, open_regular};
use kvant_core::Bytes;
use std::path::Path;
use std::sync::Arc;

/// A regular file that is mapped into memory, read only.
#[derive(Debug)]
pub struct MappedFile {
    /// The mapping; `None` for an empty file, because some systems refuse to map an empty file.
    map: Option<memmap2::Mmap>,
    /// Registers the file's name for the message after a failed read (see `guard`).
    _watched: Option<guard::Watched>,
}

impl MappedFile {
    /// Maps the whole regular file at `path`. The content is not read yet.
    ///
    /// # Errors
    /// [`Error::Io`] for errors of the file system; [`Error::NotRecognised`] for a folder, pipe or device.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |doing| move |source| Error::Io { path: path.into(), doing, source };
        let file = open_regular(path, Links::Follow)?;
        if file.metadata().map_err(fail("reading the size of"))?.len() == 0 {
            return Ok(Self { map: None, _watched: None });
        }
        // SAFETY: the mapping is read only and private to this value. The bytes of a `&[u8]` must not change. Only
        // another process that writes to the file can change them, and no program that maps files can prevent this.
        // kvant itself replaces files only by rename, which does not change the mapped file. All code that reads these
        // bytes treats them as untrusted input. So changed bytes lead to wrong values or an error, and a shortened file
        // ends the process.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail("mapping"))?;
        let watched = guard::watch(path, &map);
        Ok(Self { _watched: watched, map: Some(map) })
    }

    /// Returns the whole file as shared bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(Arc::new(self))
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
