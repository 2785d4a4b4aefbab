//! Working memory of a thread, kept from task to task so that large buffers are mapped once.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A cache line of numbers: buffers begin on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of unspecified value at first, on a cache line. Their memory goes back to the thread that drops them.
pub(crate) struct Buffer {
    lines: Vec<Line>,
    length: usize,
}

impl Buffer {
    /// `length` numbers.
    pub fn take(length: usize) -> Self {
        let needed = length.div_ceil(16);
        let kept = FREE.with(|free| {
            let mut free = free.borrow_mut();
            // The smallest that is large enough, else the largest.
            let rank = |lines: &Vec<Line>| match lines.len() {
                enough if enough >= needed => (0, enough),
                less => (1, usize::MAX - less),
            };
            let best = (0..free.len()).min_by_key(|&index| rank(&free[index]));
            best.map(|index| free.swap_remove(index))
        });
        let mut lines = kept.unwrap_or_default();
        if lines.len() < needed {
            // Nothing of the old numbers is copied.
            lines.clear();
            lines.resize(needed, Line([0.0; 16]));
        }
        Self { lines, length }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that ends keeps nothing.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is exactly sixteen `f32` without padding (size 64, alignment 64), so that its memory is as many
        // initialised `f32`, `length` of them at least; the result borrows `lines`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; the result borrows `lines` mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// Runs `work` on `length` numbers of unspecified value. May be nested.
pub(crate) fn with<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    work(&mut Buffer::take(length))
}
