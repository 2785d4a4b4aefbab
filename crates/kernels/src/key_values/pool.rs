//! Memory for pages of keys and values: a limit, and the pages that nobody holds.
//!
//! A page goes back when its last holder drops it. Invariant: the bytes of all pages, held and free, stay within the limit.

use crate::Error;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Line {
    /// Bytes of a line.
    pub const BYTES: usize = size_of::<Self>();
}

// SAFETY: 64 bytes, any of them, without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// A pool of pages. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct PagePool(Arc<Books>);

#[derive(Debug)]
struct Books {
    limit: usize,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Bytes of the pages that are held.
    held: usize,
    /// Pages that nobody holds, by how many lines they have.
    free: BTreeMap<usize, Vec<Box<[Line]>>>,
    /// Their bytes.
    free_bytes: usize,
}

impl Pages {
    /// A free page of so many lines. Where there is none and a new one would exceed the limit, free pages of other sizes go
    /// back to the system.
    fn reuse(&mut self, lines: usize, limit: usize) -> Option<Box<[Line]>> {
        let bytes = lines * Line::BYTES;
        let kept = self.free.get_mut(&lines).and_then(Vec::pop);
        if kept.is_some() {
            self.free_bytes -= bytes;
        } else if self.free_bytes > limit - self.held {
            self.free.clear();
            self.free_bytes = 0;
        }
        kept
    }
}

impl PagePool {
    /// Pages of at most `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Books { limit, pages: Mutex::default() }))
    }

    /// As many pages as the system has memory for.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Tells pools apart.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Bytes that pages may take.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes of the pages that are held.
    pub fn held(&self) -> usize {
        self.books().held
    }

    /// Refuses what the limit leaves no room for.
    ///
    /// # Errors
    /// [`Error::PoolFull`].
    pub fn check(&self, needed: usize) -> Result<(), Error> {
        let free = self.0.limit - self.held();
        if needed > free { Err(Error::PoolFull { needed, free }) } else { Ok(()) }
    }

    fn books(&self) -> MutexGuard<'_, Pages> {
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of so many lines, whose bytes are of unspecified value.
    pub(super) fn take(&self, lines: usize) -> Result<Page, Error> {
        let bytes = lines * Line::BYTES;
        let mut books = self.books();
        let free = self.0.limit - books.held;
        if bytes > free {
            return Err(Error::PoolFull { needed: bytes, free });
        }
        books.held += bytes;
        let kept = books.reuse(lines, self.0.limit);
        drop(books);
        let lines = kept.unwrap_or_else(|| vec![Line([0; 64]); lines].into_boxed_slice());
        Ok(Page { lines, pool: self.clone() })
    }
}

/// A page of keys and values.
#[derive(Debug)]
pub(super) struct Page {
    lines: Box<[Line]>,
    pool: PagePool,
}

impl Page {
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let mut books = self.pool.books();
        books.held -= size_of_val(&*lines);
        books.free_bytes += size_of_val(&*lines);
        books.free.entry(lines.len()).or_default().push(lines);
    }
}
