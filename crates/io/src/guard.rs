//! Prints a message and ends the process if another process has shortened a mapped file (signal `SIGBUS`).
//!
//! A read beyond the end of a mapped file raises a signal in the reading thread. The handler searches a table of memory
//! maps for the address. If it finds a map, it writes the file's name to stderr and ends the process with status 1. The
//! process cannot continue, because the read has no result. The handler is async-signal-safe: it only reads atomics and
//! calls `write` and `_exit`. If the address is in no map of the table, the default action of the system ends the
//! process. On systems other than Unix this module does nothing.
#![allow(unsafe_code)]

use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Number of entries of the table: the default limit of shards of a checkpoint (4096, see [`crate::Limits`]) and 512
/// more.
const SLOTS: usize = 4608;
/// Largest number of bytes of a path in a message.
const NAME_BYTES: usize = 512;

/// An entry of the table: one memory map.
struct Slot {
    /// Address of the first byte of the map; 0 while the entry is free, 1 while it is being filled.
    start: AtomicUsize,
    /// Length of the map in bytes; 0 while the entry is free. It is set last and cleared first.
    length: AtomicUsize,
    /// Path of the file; the entry owns it.
    name: AtomicPtr<Name>,
}

/// A path for a message: the first `length` bytes of `bytes`, in UTF-8.
struct Name {
    length: usize,
    bytes: [u8; NAME_BYTES],
}

/// The table of memory maps.
static TABLE: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), length: AtomicUsize::new(0), name: AtomicPtr::new(null_mut()) }
}; SLOTS];

/// Index of an entry of the table. The drop of this value frees the entry.
#[derive(Debug)]
pub(crate) struct Watched(usize);

/// Adds a memory map to the table; returns `None` if the table is full.
pub(crate) fn watch(path: &Path, map: &[u8]) -> Option<Watched> {
    // 1 cannot be the address of a map. It marks an entry that is being filled.
    let free = |slot: &Slot| slot.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let index = TABLE.iter().position(free)?;
    let mut name = Box::new(Name { length: 0, bytes: [0; NAME_BYTES] });
    for c in path.to_string_lossy().chars() {
        // Control characters of a file name must not reach the terminal.
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
        // SAFETY: the pointer comes from `Box::into_raw` in `watch`, and the swap takes it out of the table, so it is
        // freed only once. A handler reads a name only after a failed read of a map that is in use. This map is no
        // longer in use, so no handler reads this name.
        drop(unsafe { Box::from_raw(name) });
        slot.start.store(0, Ordering::Release);
    }
}

/// Installs the handler of `SIGBUS` for the whole process. Only a program should call this, not a library, and only one
/// time.
pub fn guard_mapped_files() {
    #[cfg(unix)]
    // SAFETY: all fields of the structure are set. The handler has the signature that `SA_SIGINFO` requires, and it
    // calls only async-signal-safe functions. It runs on the alternate stack if the thread has one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as extern "C" fn(_, _, _) as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, null_mut());
    }
}

/// Handles `SIGBUS`: writes the name of the shortened file and ends the process.
#[cfg(unix)]
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with `SA_SIGINFO`. For `SIGBUS` the structure contains
    // the address.
    let address = unsafe { (*info).si_addr() } as usize;
    let hit = TABLE.iter().find(|slot| {
        let length = slot.length.load(Ordering::Acquire);
        // A map consists of whole pages, so its last page may reach beyond the file's length. Pages have at most 64
        // KiB.
        address.wrapping_sub(slot.start.load(Ordering::Acquire)) < length.next_multiple_of(1 << 16)
            && length > 0
    });
    let name = hit.map_or(null_mut(), |slot| slot.name.load(Ordering::Acquire));
    if name.is_null() {
        // SAFETY: `signal` is async-signal-safe. It restores the default action. After the return the failed read is
        // repeated, and the default action ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: a read of this map has just failed, so the map is in use. The name of a map in use is not freed.
    let name = unsafe { &*name };
    let name = &name.bytes[..name.length.min(NAME_BYTES)];
    crate::signals::end_with(&[
        b"kvant: ",
        name,
        b": was cut short while it was read; is another program writing to it?\n",
    ])
}
