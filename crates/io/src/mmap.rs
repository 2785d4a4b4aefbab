//! A file mapped into memory, read only: one of the two places of this crate with `unsafe`.
//!
//! Invariant: the mapping lives as long as any [`Bytes`] over it, and its slice never changes place or length. Another
//! process may cut the file short while it is mapped. The operating system answers a read beyond the new end with a
//! signal (`SIGBUS`); a program that has called [`crate::guard_mapped_files`] then ends with a message and status 1. Left
//! out on purpose: writing through maps.
#![allow(unsafe_code)]

use crate::{Error, Links, guard, open_regular};
use kvant_core::Bytes;
use std::path::Path;
use std::sync::Arc;

/// A regular file, mapped read only.
#[derive(Debug)]
pub struct MappedFile {
    /// `None` for an empty file, which some systems refuse to map.
    map: Option<memmap2::Mmap>,
    /// Names the file if a read of the map fails.
    _watched: Option<guard::Watched>,
}

impl MappedFile {
    /// Maps all of the regular file at `path`. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Io`] as the file system says; [`Error::NotRecognised`] for a folder, pipe or device.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |doing| move |source| Error::Io { path: path.into(), doing, source };
        let file = open_regular(path, Links::Follow)?;
        if file.metadata().map_err(fail("reading the size of"))?.len() == 0 {
            return Ok(Self { map: None, _watched: None });
        }
        // SAFETY: the map is read only and private to this value. The one way to break `&[u8]`'s promise is another
        // process that writes to the file meanwhile; no memory-mapped format can exclude that, and kvant itself only
        // ever replaces files by rename, which leaves the mapped one untouched. Every reader above treats the bytes
        // as hostile, so changed bytes give wrong numbers or an error, and a shortened file ends the process.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail("mapping"))?;
        let watched = guard::watch(path, &map);
        Ok(Self { _watched: watched, map: Some(map) })
    }

    /// The whole file, shared without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(Arc::new(self))
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
