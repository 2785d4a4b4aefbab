//! Working memory of a thread. The thread keeps its buffers and reuses them, so that it allocates a large buffer only
//! one time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// One cache line of floats. Buffers start at a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// The memory of the buffers that this thread has dropped.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of floats, aligned to a cache line. The initial values are unspecified. The thread that drops the buffer
/// keeps the memory for reuse.
pub(crate) struct Buffer {
    lines: Vec<Line>,
    /// Number of floats that the user of the buffer sees.
    length: usize,
}

impl Buffer {
    /// Returns a buffer of `length` floats.
    pub fn take(length: usize) -> Self {
        let needed = length.div_ceil(16);
        let kept = FREE.with(|free| {
            let mut free = free.borrow_mut();
            // Prefer the smallest buffer that is large enough. If no buffer is large enough, take the largest buffer.
            let rank = |lines: &Vec<Line>| match lines.len() {
                enough if enough >= needed => (0, enough),
                less => (1, usize::MAX - less),
            };
            let best = (0..free.len()).min_by_key(|&index| rank(&free[index]));
            best.map(|index| free.swap_remove(index))
        });
        let mut lines = kept.unwrap_or_default();
        if lines.len() < needed {
            // Clear `lines` first, so that `resize` does not copy the old values.
            lines.clear();
            lines.resize(needed, Line([0.0; 16]));
        }
        Self { lines, length }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // At the end of a thread, `FREE` may already be destroyed. In this case the memory is freed.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is exactly 16 `f32` without padding (size 64, alignment 64). So `lines` holds at least
        // `length` initialised `f32`. The result borrows `lines`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `Line` is exactly 16 `f32` without padding (size 64, alignment 64). So `lines` holds at least
        // `length` initialised `f32`. The result borrows `lines` mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// Calls `work` with a buffer of `length` floats and returns its result. The values in the buffer are unspecified.
/// Calls may be nested.
pub(crate) fn with<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    work(&mut Buffer::take(length))
}
