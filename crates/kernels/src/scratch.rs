//! Working memory of a thread, kept from task to task so that large buffers are mapped once.

use std::cell::RefCell;

/// A cache line of numbers: buffers begin on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` on `length` numbers of unspecified value. May be nested.
pub(crate) fn with<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = FREE.with(|free| free.borrow_mut().pop()).unwrap_or_default();
    let needed = length.div_ceil(16);
    if lines.len() < needed {
        lines.resize(needed, Line([0.0; 16]));
    }
    let result = work(&mut numbers(&mut lines)[..length]);
    FREE.with(|free| free.borrow_mut().push(lines));
    result
}

fn numbers(lines: &mut [Line]) -> &mut [f32] {
    let count = lines.len() * 16;
    // SAFETY: `Line` is exactly sixteen `f32` without padding (size 64, alignment 64), so its memory is as many
    // initialised `f32`; the result borrows `lines` mutably.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), count) }
}
