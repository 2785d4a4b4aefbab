//! Signals: the user or the session asks the process to end, or the process aborts.
//!
//! A signal handler may call only a few functions, so these handlers only count the signals. If more signals arrive
//! before the program has reacted, the handler ends the process. Invariant: no handler allocates memory, takes a lock
//! or prints through Rust's streams. Not covered here: the reaction of a command to a count. On systems other than Unix
//! these functions do nothing, and Ctrl-C has the default effect of the system.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of `SIGINT` signals since the last [`forget_interrupts`].
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);
/// Number of `SIGTERM` and `SIGHUP` signals.
static ENDS: AtomicUsize = AtomicUsize::new(0);

/// Number of `SIGINT` signals (presses of Ctrl-C) since the last [`forget_interrupts`].
pub fn interrupts() -> usize {
    INTERRUPTS.load(Ordering::SeqCst)
}

/// Sets the number of counted `SIGINT` signals to zero.
pub fn forget_interrupts() {
    INTERRUPTS.store(0, Ordering::SeqCst);
}

/// True if the session or the system has asked the program to end (`SIGTERM`, `SIGHUP`).
pub fn ended() -> bool {
    ENDS.load(Ordering::SeqCst) > 0
}

/// Installs handlers that count `SIGINT`, `SIGTERM` and `SIGHUP`, for a program that reads the counts between its
/// steps. A third `SIGINT`, or a second signal of the other two types, ends the process immediately with status 130. If
/// `SIGHUP` is already ignored (as under `nohup`), it stays ignored.
///
/// # Errors
/// The error of the system call. In this case signals may still have their default effect.
pub fn count() -> io::Result<()> {
    system::count()
}

/// Installs handlers that end the process immediately with status 130 at `SIGINT`, `SIGTERM` or `SIGHUP`. This is for
/// work that is always short.
///
/// # Errors
/// The errors of [`count`].
pub fn end_at_once() -> io::Result<()> {
    system::end_at_once()
}

/// Installs a handler of `SIGABRT` that prints a message and ends the process with status 1. The standard library
/// aborts if the stack of a thread overflows, or if there is no memory to start a thread.
///
/// # Errors
/// The errors of [`count`].
pub fn abort_with_status() -> io::Result<()> {
    system::abort_with_status()
}

/// Writes the parts of a message to stderr and ends the process with status 1. A signal handler may call it, also if no
/// memory is left: it calls only async-signal-safe functions and allocates nothing.
#[cfg(unix)]
pub(crate) fn end_with(parts: &[&[u8]]) -> ! {
    // SAFETY: each pointer and its length come from the same slice, so `write` reads only valid bytes. `write` and
    // `_exit` are async-signal-safe, and `_exit` does not return.
    unsafe {
        for part in parts {
            libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len());
        }
        libc::_exit(1)
    }
}

#[cfg(unix)]
mod system {
    use super::{ENDS, INTERRUPTS};
    use libc::{SIG_IGN, SIGABRT, SIGHUP, SIGINT, SIGTERM, c_int};
    use std::io;
    use std::mem::zeroed;
    use std::ptr::null_mut;
    use std::sync::atomic::Ordering;

    /// Exit status of a process that the user has stopped: 128 + 2 (the number of `SIGINT`), as shells report it.
    const INTERRUPTED: c_int = 130;
    /// Number of signals that are only counted; the next signal ends the process. The first value is for `SIGINT`, the
    /// second for `SIGTERM` and `SIGHUP` together.
    const PATIENCE: [usize; 2] = [2, 1];

    type Handler = extern "C" fn(c_int);

    pub fn count() -> io::Result<()> {
        ends(counted)
    }

    pub fn end_at_once() -> io::Result<()> {
        ends(left)
    }

    pub fn abort_with_status() -> io::Result<()> {
        install(SIGABRT, aborted)
    }

    /// Installs `handler` for `SIGINT`, `SIGTERM` and `SIGHUP`. An ignored `SIGHUP` stays ignored.
    fn ends(handler: Handler) -> io::Result<()> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal != SIGHUP || !ignored(signal)? {
                install(signal, handler)?;
            }
        }
        Ok(())
    }

    /// Counts the signal. Ends the process if `PATIENCE` signals were counted before.
    extern "C" fn counted(signal: c_int) {
        let (count, patience) =
            if signal == SIGINT { (&INTERRUPTS, PATIENCE[0]) } else { (&ENDS, PATIENCE[1]) };
        if count.fetch_add(1, Ordering::SeqCst) >= patience {
            left(signal);
        }
    }

    /// Ends the process immediately with status 130.
    extern "C" fn left(_signal: c_int) {
        // SAFETY: `_exit` is async-signal-safe, accesses no memory of the program and does not return.
        unsafe { libc::_exit(INTERRUPTED) }
    }

    /// Ends the process with a message and status 1. The standard library has already printed the reason of the abort.
    extern "C" fn aborted(_signal: c_int) {
        super::end_with(&[b"kvant: cannot go on; the line above says why\n"])
    }

    /// True if the process ignores this signal.
    fn ignored(signal: c_int) -> io::Result<bool> {
        // SAFETY: a `sigaction` of all zeros is valid. The new action is null, so the call only writes the current
        // action to `now`.
        unsafe {
            let mut now: libc::sigaction = zeroed();
            match libc::sigaction(signal, std::ptr::null(), &mut now) {
                0 => Ok(now.sa_sigaction == SIG_IGN),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    fn install(signal: c_int, handler: Handler) -> io::Result<()> {
        // SAFETY: a `sigaction` of all zeros is valid and has an empty mask. The handler has the right signature and
        // uses only atomics, `write` and `_exit`, which are async-signal-safe. `SA_RESTART` restarts interrupted system
        // calls. With `SA_ONSTACK` the handler runs on the alternate stack that Rust provides, so it also works after a
        // stack overflow.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            match libc::sigaction(signal, &action, null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    pub fn count() -> io::Result<()> {
        Ok(())
    }

    pub fn end_at_once() -> io::Result<()> {
        Ok(())
    }

    pub fn abort_with_status() -> io::Result<()> {
        Ok(())
    }
}
