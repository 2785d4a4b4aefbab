//! Reads the bytes of a file in sequence and never beyond their end.

use crate::{Error, Limits};
use std::path::Path;

/// Reads little-endian values in sequence. Every read is checked against the end of the file. The argument `what` of
/// its functions names the value in errors.
pub(super) struct Cursor<'a> {
    pub path: &'a Path,
    pub limits: &'a Limits,
    bytes: &'a [u8],
    /// Offset of the next read in bytes.
    at: usize,
    /// Memory of the metadata that was read so far, in bytes.
    taken: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, limits: &'a Limits, bytes: &'a [u8]) -> Self {
        Self { path, limits, bytes, at: 0, taken: 0 }
    }

    pub fn offset(&self) -> u64 {
        self.at as u64
    }

    pub fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], Error> {
        if count > self.left() {
            return Err(Error::Truncated {
                path: self.path.into(),
                what,
                offset: self.offset(),
                needed: count,
                available: self.left(),
            });
        }
        let slice = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(slice)
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads a number of items. Every item takes at least `each` bytes in the file. Returns an error if the number is
    /// above `max`, or if the rest of the file is too short for the items.
    pub fn count(&mut self, what: &'static str, each: u64, max: usize) -> Result<usize, Error> {
        let offset = self.offset();
        let count = self.u64(what)?;
        if count > max as u64 {
            return Err(Error::Limit { path: self.path.into(), what, found: count, max: max as u64 });
        }
        if count.saturating_mul(each) > self.left() {
            return Err(Error::Truncated {
                path: self.path.into(),
                what,
                offset,
                needed: count.saturating_mul(each),
                available: self.left(),
            });
        }
        Ok(count as usize)
    }

    pub fn string(&mut self, what: &'static str) -> Result<String, Error> {
        let length = self.count(what, 1, self.limits.string_bytes)?;
        let offset = self.offset();
        let bytes = self.take(length as u64, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::BadUtf8 {
            path: self.path.into(),
            what,
            offset,
        })?;
        self.charge(length + size_of::<String>())?;
        Ok(text.to_owned())
    }

    /// Adds `bytes` to the memory of the metadata, before this memory is allocated. Returns an error if the sum is
    /// above `Limits::metadata_bytes`.
    pub fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken > self.limits.metadata_bytes {
            return Err(Error::Limit {
                path: self.path.into(),
                what: "bytes of metadata",
                found: self.taken as u64,
                max: self.limits.metadata_bytes as u64,
            });
        }
        Ok(())
    }
}
