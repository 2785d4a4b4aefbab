//! The system's allocator. When no memory is left, the process ends with an error message.
//!
//! The standard library would abort the process in this case, which gives a signal and not an exit status. Invariant:
//! the code that ends the process allocates no memory. Not covered here: freeing memory in order to continue. Sizes
//! that a file claims are checked earlier; see [`crate::Limits`].
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The allocator for a program's `#[global_allocator]`. When no memory is left, it prints a message and ends the
/// process with status 1.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: every call passes its arguments unchanged to the system's allocator and returns its result unchanged. Only a
// null pointer is different: on Unix it ends the process, on other systems it is returned.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller of `alloc` guarantees that `layout` has a size above 0, as `System.alloc` requires.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller of `alloc_zeroed` guarantees that `layout` has a size above 0, as `System.alloc_zeroed`
        // requires.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that `start` was allocated here with `layout`, so it comes from `System`. The
        // caller also guarantees that `size` is above 0 and that `size`, rounded up to the alignment, fits into an
        // `isize`.
        given(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that `start` was allocated here with `layout`, so it comes from `System`.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Sets up glibc's allocator for a process that runs for long, so that freed memory goes back to the system. Call it before
/// other threads start. It changes two defaults:
///
/// - Each thread has a heap of its own, which keeps what the thread has freed. Here all threads share one heap.
/// - Once a large block is freed, blocks of up to its size (32 MiB at most) come from the heap, which can shrink at its end
///   only. Here blocks of 128 KiB and more always have a mapping of their own.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, OWN_MAPPING)]
    {
        // SAFETY: `mallopt` reads its two numbers only, and no other thread allocates yet. An error leaves the default.
        let _ = unsafe { libc::mallopt(option, value) };
    }
}

/// Bytes of a block that gets a mapping of its own after [`return_freed_memory`]: glibc's default at the start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: libc::c_int = 128 * 1024;

/// Returns `start`. If it is null, ends the process with a message that names `bytes`, the requested size.
#[inline(always)]
fn given(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() {
        none_left(bytes);
    }
    start
}

/// Ends the process on Unix. On other systems it returns, and the standard library aborts the process. `bytes` is the
/// size of the failed allocation.
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

/// Writes a number in decimal digits to the end of `digits` and returns these digits. A 64-bit number has at most 20
/// digits.
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
