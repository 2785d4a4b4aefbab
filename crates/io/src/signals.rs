//! What the operating system tells a process: that its user or its session wants it to end, and that it cannot go on.
//!
//! A handler may do next to nothing, so these count, and leave where the program has not looked at the count in time.
//! Invariant: no handler allocates, locks or prints through Rust's streams. Left out: what a count means to a command,
//! and systems that are not Unix, where Ctrl-C ends the program as the system has it.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);
static ENDS: AtomicUsize = AtomicUsize::new(0);

/// How often Ctrl-C was pressed (`SIGINT`) since it was forgotten.
pub fn interrupts() -> usize {
    INTERRUPTS.load(Ordering::SeqCst)
}

/// Forgets earlier presses of Ctrl-C.
pub fn forget_interrupts() {
    INTERRUPTS.store(0, Ordering::SeqCst);
}

/// Whether the session or the system wants the program to end (`SIGTERM`, `SIGHUP`).
pub fn ended() -> bool {
    ENDS.load(Ordering::SeqCst) > 0
}

/// Lets `SIGINT`, `SIGTERM` and `SIGHUP` be counted where the program looks at the counts between steps. Who does not
/// want to wait ends it at once, with status 130: by a third `SIGINT`, or a second one of the others. `SIGHUP` stays
/// ignored where it is, as `nohup` has it.
///
/// # Errors
/// What the system says; then signals do what they do by default.
pub fn count() -> io::Result<()> {
    system::count()
}

/// Lets `SIGINT`, `SIGTERM` and `SIGHUP` end the program at once with status 130, for work that is never long.
///
/// # Errors
/// As [`count`].
pub fn end_at_once() -> io::Result<()> {
    system::end_at_once()
}

/// Lets the program end with status 1 and a message where it would abort: a thread whose stack is used up, or that has
/// no memory to begin.
///
/// # Errors
/// As [`count`].
pub fn abort_with_status() -> io::Result<()> {
    system::abort_with_status()
}

/// Writes a message to stderr and ends the process with status 1. For handlers, and where there is no memory: it calls
/// only what is async-signal-safe, and allocates nothing.
#[cfg(unix)]
pub(crate) fn end_with(parts: &[&[u8]]) -> ! {
    // SAFETY: the bytes are as many as is said; `write` and `_exit` may be called in a handler, and the second does not
    // return.
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

    /// The exit status of what a user stopped.
    const INTERRUPTED: c_int = 130;
    /// Presses of Ctrl-C, and other wishes, that wait for the program.
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

    fn ends(handler: Handler) -> io::Result<()> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal != SIGHUP || !ignored(signal)? {
                install(signal, handler)?;
            }
        }
        Ok(())
    }

    extern "C" fn counted(signal: c_int) {
        let (count, patience) =
            if signal == SIGINT { (&INTERRUPTS, PATIENCE[0]) } else { (&ENDS, PATIENCE[1]) };
        if count.fetch_add(1, Ordering::SeqCst) >= patience {
            left(signal);
        }
    }

    extern "C" fn left(_signal: c_int) {
        // SAFETY: `_exit` may be called in a handler; it takes a number and does not return.
        unsafe { libc::_exit(INTERRUPTED) }
    }

    extern "C" fn aborted(_signal: c_int) {
        super::end_with(&[b"kvant: cannot go on; the line above says why\n"])
    }

    fn ignored(signal: c_int) -> io::Result<bool> {
        // SAFETY: all zeros is a valid `sigaction`; with no new action the call only fills it in.
        unsafe {
            let mut now: libc::sigaction = zeroed();
            match libc::sigaction(signal, std::ptr::null(), &mut now) {
                0 => Ok(now.sa_sigaction == SIG_IGN),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    fn install(signal: c_int, handler: Handler) -> io::Result<()> {
        // SAFETY: all zeros is a valid `sigaction` with an empty mask; the handler is a function of this program that
        // only uses atomics, `write` and `_exit`; calls that it interrupts go on, and it runs on the stack that Rust
        // keeps for a thread whose own is used up.
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
