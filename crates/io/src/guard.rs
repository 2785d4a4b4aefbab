//! A message in place of a death by `SIGBUS`, where a mapped file is cut short by another process.
//!
//! A read beyond the end of a mapped file raises a signal in the thread that reads. The handler looks the address up in a
//! table of maps, writes the file's name to stderr and ends the process with status 1: there is no way to go on, because
//! the read has no result. Everything in the handler is async-signal-safe: it reads atomics and calls `write` and `_exit`.
//! A fault outside of the table gets the system's own treatment. On other systems than Unix this does nothing.
#![allow(unsafe_code)]

use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Maps that can be watched at once: as many as a checkpoint may have shards, and some.
const SLOTS: usize = 4608;
/// Bytes of a path that a message shows.
const NAME_BYTES: usize = 512;

struct Slot {
    start: AtomicUsize,
    /// 0 while the slot is free; set last, cleared first.
    length: AtomicUsize,
    name: AtomicPtr<Name>,
}

struct Name {
    length: usize,
    bytes: [u8; NAME_BYTES],
}

static TABLE: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), length: AtomicUsize::new(0), name: AtomicPtr::new(null_mut()) }
}; SLOTS];

/// A map in the table, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched(usize);

/// Enters a map into the table; `None` if the table is full.
pub(crate) fn watch(path: &Path, map: &[u8]) -> Option<Watched> {
    // An address that no map can have marks a slot that is being filled.
    let free = |slot: &Slot| slot.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let index = TABLE.iter().position(free)?;
    let mut name = Box::new(Name { length: 0, bytes: [0; NAME_BYTES] });
    for c in path.to_string_lossy().chars() {
        // Control characters of a file's name don't reach a terminal.
        let c = if c.is_control() { '\u{fffd}' } else { c };
        if name.length + c.len_utf8() > NAME_BYTES {
            break;
        }
        let at = name.length;
        name.length += c.encode_utf8(&mut name.bytes[at..]).len();
    }
    let slot = &TABLE[index];
    slot.name.store(Box::into_raw(name), Ordering::Release);
    slot.start.store(map.as_ptr() as usize, Ordering::Release);
    slot.length.store(map.len(), Ordering::Release);
    Some(Watched(index))
}

impl Drop for Watched {
    fn drop(&mut self) {
        let slot = &TABLE[self.0];
        slot.length.store(0, Ordering::Release);
        let name = slot.name.swap(null_mut(), Ordering::AcqRel);
        // SAFETY: the pointer came from `Box::into_raw` in `watch` and is taken out of the table once. A handler that
        // reads it at this moment belongs to a map that is still in use, which this one is not.
        drop(unsafe { Box::from_raw(name) });
        slot.start.store(0, Ordering::Release);
    }
}

/// Installs the handler of `SIGBUS`, for the whole process: to be called once, by a program and not by a library.
pub fn guard_mapped_files() {
    #[cfg(unix)]
    // SAFETY: the structure is filled in completely; the handler has the signature that `SA_SIGINFO` asks for, and calls
    // only what is async-signal-safe. It runs on the alternate stack if the thread has one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as extern "C" fn(_, _, _) as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, null_mut());
    }
}

#[cfg(unix)]
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid `siginfo_t` to a handler with `SA_SIGINFO`; for this signal it has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let hit = TABLE.iter().find(|slot| {
        let length = slot.length.load(Ordering::Acquire);
        // The last page of a map may reach beyond the file's length.
        address.wrapping_sub(slot.start.load(Ordering::Acquire)) < length.next_multiple_of(1 << 16)
            && length > 0
    });
    let name = hit.map_or(null_mut(), |slot| slot.name.load(Ordering::Acquire));
    if name.is_null() {
        // SAFETY: restoring the default action is async-signal-safe; the faulting read is then repeated and ends the
        // process as it would have without this handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the name belongs to a map that is in use, since a read of it has just failed, so it is not freed.
    let name = unsafe { &*name };
    let name = &name.bytes[..name.length.min(NAME_BYTES)];
    crate::signals::end_with(&[
        b"kvant: ",
        name,
        b": was cut short while it was read; is another program writing to it?\n",
    ])
}
