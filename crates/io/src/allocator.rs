//! The system's allocator, with an end that says so where no memory is left.
//!
//! The standard library would abort then: a signal instead of an exit status. Invariant: the end allocates nothing.
//! Left out: who freed memory could make room. Sizes that a file claims are checked before, against [`crate::Limits`].
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// What a program declares as its `#[global_allocator]`: with no memory left it ends with status 1 and a message.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: everything is handed to the system's allocator as it came, and what comes back is handed on; a null pointer
// ends the process instead.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the same function.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the same function.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the same function.
        given(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.dealloc(start, layout) }
    }
}

#[inline(always)]
fn given(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() {
        none_left(bytes);
    }
    start
}

/// Ends the process on Unix; elsewhere the standard library aborts it.
#[cold]
fn none_left(bytes: usize) {
    #[cfg(unix)]
    {
        let mut digits = [0; 20];
        crate::signals::end_with(&[
            b"kvant: out of memory: ",
            decimal(bytes, &mut digits),
            b" bytes more are not to be had; close other programs, raise the limit, or take a smaller model or context\n",
        ])
    }
    #[cfg(not(unix))]
    let _ = bytes;
}

/// A number in decimal digits.
#[cfg_attr(not(unix), allow(dead_code))]
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_memory() {
        for number in [0, 7, 10, 4096, usize::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
