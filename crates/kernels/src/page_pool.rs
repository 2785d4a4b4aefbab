//! Memory for the states of sequences: pages with a limit and a list of free pages.
//!
//! A page returns to the pool when its last owner drops it. Invariant: the bytes of all pages, used and free, never
//! exceed the limit.

use crate::Error;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Line {
    /// Bytes per cache line.
    pub const BYTES: usize = size_of::<Self>();
}

// SAFETY: the type is 64 bytes without padding, and zero bytes are a valid value.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: the type is 64 bytes without padding, it is `Copy`, and every bit pattern is a valid value.
unsafe impl bytemuck::Pod for Line {}

/// A pool of pages. A clone refers to the same pool.
#[derive(Clone, Debug)]
pub struct PagePool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Maximum bytes of all pages, used and free.
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of the pages in use.
    held: usize,
    /// Free pages, grouped by their number of cache lines.
    free: BTreeMap<usize, Vec<Box<[Line]>>>,
    /// Bytes of the free pages.
    free_bytes: usize,
}

impl State {
    /// Takes a free page with `lines` cache lines. Returns `None` if there is no such page; in this case the caller
    /// allocates a new page. If the new page could exceed the limit, all free pages (which have other sizes) are first
    /// returned to the system.
    fn reuse(&mut self, lines: usize, limit: usize) -> Option<Box<[Line]>> {
        let bytes = lines * Line::BYTES;
        let free_page = self.free.get_mut(&lines).and_then(Vec::pop);
        if free_page.is_some() {
            self.free_bytes -= bytes;
        } else if self.free_bytes > limit - self.held {
            self.free.clear();
            self.free_bytes = 0;
        }
        free_page
    }
}

impl PagePool {
    /// Creates a pool whose pages take at most `limit` bytes in total.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, state: Mutex::default() }))
    }

    /// Creates a pool without a limit.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Returns an identifier of the pool. All clones of a pool have the same identifier.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes of the pages in use.
    pub fn held(&self) -> usize {
        self.state().held
    }

    /// Checks that pages with `needed` more bytes would not exceed the limit.
    ///
    /// # Errors
    /// [`Error::PoolFull`] if `needed` is larger than the limit minus the bytes of the pages in use.
    pub fn check(&self, needed: usize) -> Result<(), Error> {
        let free = self.0.limit - self.held();
        if needed > free { Err(Error::PoolFull { needed, free }) } else { Ok(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free page with `lines` cache lines, or allocates a new page. The values of its bytes are unspecified.
    ///
    /// # Errors
    /// [`Error::PoolFull`] if the page would exceed the limit.
    pub(crate) fn take(&self, lines: usize) -> Result<Page, Error> {
        let bytes = lines * Line::BYTES;
        let mut state = self.state();
        let free = self.0.limit - state.held;
        if bytes > free {
            return Err(Error::PoolFull { needed: bytes, free });
        }
        state.held += bytes;
        let free_page = state.reuse(lines, self.0.limit);
        drop(state);
        let lines = free_page.unwrap_or_else(|| vec![Line([0; 64]); lines].into_boxed_slice());
        Ok(Page { lines, pool: self.clone() })
    }
}

/// A page: bytes of the states of one sequence or of several sequences.
#[derive(Debug)]
pub(crate) struct Page {
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
        let mut state = self.pool.state();
        state.held -= size_of_val(&*lines);
        state.free_bytes += size_of_val(&*lines);
        state.free.entry(lines.len()).or_default().push(lines);
    }
}
