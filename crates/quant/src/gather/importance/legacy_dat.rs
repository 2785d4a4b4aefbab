//! The older importance file format (`imatrix.dat`): a sequence of little-endian values.
//!
//! The file begins with an i32 count of entries. Each entry has: i32 length of the name, the name, i32 calls (the
//! number of chunks), i32 count of values, the values in f32. A trailer follows, except in the oldest files: i32 count
//! of chunks, i32 length of the text's name, the name. The values are mean squares times calls. Upstream accepts a
//! truncated trailer and data after the trailer; this reader rejects both.
//!
//! The format cannot hold all importance data. Writing loses the names of all texts except the last, the chunk size and
//! the number of tokens.

use super::{Entry, Importance};
use crate::{Error, ImportanceFault};
use kvant_io::Limits;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of the smallest entry, which has an empty name and one value.
const MIN_ENTRY_BYTES: u64 = 16;

pub(super) fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Importance, Error> {
    let mut reader = Reader { path, limits, bytes, at: 0 };
    let count = reader.number("count of importance entries", 1)?;
    reader.limit("importance entries", count, limits.tensors)?;
    reader.require("importance entries", u64::from(count) * MIN_ENTRY_BYTES)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let name = reader.string("tensor name")?;
        let calls = reader.number("count of calls", 0)?;
        let values = reader.number("count of values", 1)?;
        let bytes = reader.take("values", u64::from(values) * 4)?;
        let sums = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        // With zero calls upstream uses the values unchanged. A count of 0 would replace the values by 1, so the count
        // becomes 1.
        let entry = Entry { sums, counts: vec![calls.max(1) as f32] };
        if entries.contains_key(&name) {
            let (path, what) = (path.into(), "importance entry");
            return Err(kvant_io::Error::DuplicateName { path, what, name }.into());
        }
        entries.insert(name, entry);
    }
    let mut importance = Importance { entries, ..Importance::default() };
    if reader.remaining() > 0 {
        importance.chunk_count = reader.number("count of chunks", 0)?;
        let dataset = reader.string("name of the text")?;
        importance.datasets.extend(Some(dataset).filter(|name| !name.is_empty()));
    }
    match reader.remaining() {
        0 => Ok(importance),
        bytes => Err(kvant_io::Error::Hole { path: path.into(), offset: reader.at as u64, bytes }.into()),
    }
}

/// Encodes an importance as a file, with entries in the order of names.
///
/// # Errors
/// Counts and lengths that do not fit in an i32.
pub(super) fn bytes(importance: &Importance) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let number = |bytes: &mut Vec<u8>, what: &'static str, found: usize| {
        let fits = i32::try_from(found).map_err(|_| ImportanceFault::Large { what, found });
        fits.map(|n| bytes.extend_from_slice(&n.to_le_bytes()))
    };
    let text = |bytes: &mut Vec<u8>, text: &str| -> Result<(), ImportanceFault> {
        number(bytes, "length of a name", text.len())?;
        bytes.extend_from_slice(text.as_bytes());
        Ok(())
    };
    let calls = importance.chunk_count.max(1);
    number(&mut bytes, "count of entries", importance.entries.len())?;
    for (name, entry) in &importance.entries {
        text(&mut bytes, name)?;
        number(&mut bytes, "count of calls", calls as usize)?;
        number(&mut bytes, "count of values", entry.sums.len())?;
        let (experts, columns) = (entry.counts.len(), entry.sums.len() / entry.counts.len());
        // These are the means that upstream's quantizer would use, also for experts that were never used.
        let means = importance.mean_square(name, columns, experts)?.unwrap_or_default();
        means.iter().for_each(|mean| bytes.extend_from_slice(&(mean * calls as f32).to_le_bytes()));
    }
    number(&mut bytes, "count of chunks", calls as usize)?;
    text(&mut bytes, importance.datasets.last().map_or("", String::as_str))?;
    Ok(bytes)
}

/// A bounds-checked reader of the file's bytes. `at` is the offset of the next byte; it never exceeds the length.
struct Reader<'a> {
    path: &'a Path,
    limits: &'a Limits,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn require(&self, what: &'static str, needed: u64) -> Result<(), Error> {
        let (path, offset, available) = (self.path.into(), self.at as u64, self.remaining());
        if needed > available {
            return Err(kvant_io::Error::Truncated { path, what, offset, needed, available }.into());
        }
        Ok(())
    }

    fn limit(&self, what: &'static str, found: u32, max: usize) -> Result<(), Error> {
        if found as usize > max {
            let (path, found, max) = (self.path.into(), found.into(), max as u64);
            return Err(kvant_io::Error::Limit { path, what, found, max }.into());
        }
        Ok(())
    }

    fn take(&mut self, what: &'static str, count: u64) -> Result<&'a [u8], Error> {
        self.require(what, count)?;
        let slice = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(slice)
    }

    /// Reads an i32 that must be at least `least`.
    fn number(&mut self, what: &'static str, least: u32) -> Result<u32, Error> {
        let offset = self.at as u64;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(what, 4)?);
        let found = i32::from_le_bytes(bytes);
        u32::try_from(found).ok().filter(|&n| n >= least).ok_or_else(|| Error::ImportanceFile {
            path: self.path.into(),
            source: ImportanceFault::Number { what, offset, found, least },
        })
    }

    fn string(&mut self, what: &'static str) -> Result<String, Error> {
        let length = self.number(what, 0)?;
        self.limit(what, length, self.limits.string_bytes)?;
        let offset = self.at as u64;
        let text = std::str::from_utf8(self.take(what, length.into())?);
        let bad = |_| Error::Io(kvant_io::Error::BadUtf8 { path: self.path.into(), what, offset });
        text.map(str::to_owned).map_err(bad)
    }
}
