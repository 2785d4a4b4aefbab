//! Reads the user's input line by line. A signal ends the waiting for a line.
//!
//! A read from stdin blocks, and the standard library restarts the read after a signal. So a separate thread reads.
//! Invariants: at most one line is read in advance; the memory for a line is limited.

use crate::failure::Failure;
use crate::{signals, terminal};
use std::io::{self, BufRead, IsTerminal, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Maximum length of a line, in bytes.
const LONGEST: u64 = 16 << 20;
/// Interval between two checks for signals.
const LOOK: Duration = Duration::from_millis(50);
/// Stack size of the reading thread, in bytes. A small stack is enough, because the thread calls only few functions.
const STACK_BYTES: usize = 256 << 10;

/// Lines of stdin.
pub struct Turns {
    lines: Receiver<Result<String, Failure>>,
    /// True if stdin is a terminal. A prompt is printed before each line only for a terminal.
    terminal: bool,
}

impl Turns {
    /// Starts the reading thread.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn new() -> Result<Self, Failure> {
        let (send, lines) = sync_channel(0);
        let thread = thread::Builder::new().name("kvant-input".to_owned()).stack_size(STACK_BYTES);
        thread
            .spawn(move || read(&send))
            .map_err(|e| Failure::Fault(format!("cannot start a thread that reads the input: {e}")))?;
        Ok(Self { lines, terminal: io::stdin().is_terminal() })
    }

    /// Returns the next line, without its line break; `None` after the last line.
    ///
    /// # Errors
    /// Two presses of Ctrl-C, or another signal that asks the program to end; a line that is too long or not UTF-8;
    /// errors of the system.
    pub fn next(&self) -> Result<Option<String>, Failure> {
        let (ask, mut told) = (
            || {
                if self.terminal {
                    terminal::ask()
                }
            },
            false,
        );
        ask();
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(_) if signals::interrupts() > 1 => return Err(Failure::Interrupted),
                Ok(line) => {
                    signals::forget_interrupts();
                    return line.map(Some);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => match signals::interrupts() {
                    0 => {}
                    1 if told => {}
                    1 => {
                        terminal::say("Ctrl-C again leaves");
                        told = true;
                        ask();
                    }
                    _ => return Err(Failure::Interrupted),
                },
            }
        }
    }
}

/// Sends lines until the input ends, an error occurs, or the receiver is dropped.
fn read(send: &SyncSender<Result<String, Failure>>) {
    let mut input = io::stdin().lock();
    for number in 1u64.. {
        let line = match one(&mut input, number) {
            Ok(Some(line)) => Ok(line),
            Ok(None) => return,
            Err(failure) => Err(failure),
        };
        let last = line.is_err();
        if send.send(line).is_err() || last {
            return;
        }
    }
}

fn one(input: &mut impl BufRead, number: u64) -> Result<Option<String>, Failure> {
    let mut line = Vec::new();
    let read = input.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line);
    read.map_err(|e| Failure::Fault(format!("standard input, line {number}: {e}")))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 > LONGEST {
        return Err(Failure::Fault(format!(
            "standard input, line {number}: longer than {} MiB",
            LONGEST >> 20
        )));
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    let bad = |e: std::string::FromUtf8Error| {
        let at = e.utf8_error().valid_up_to();
        Failure::Fault(format!("standard input, line {number}: not UTF-8 at byte {at} of the line"))
    };
    String::from_utf8(line).map(Some).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_they_do_everywhere() {
        let mut input = &b"one\r\ntwo\n\n\xed\x95\x9c"[..];
        let mut next = || one(&mut input, 1).unwrap();
        let lines = [next(), next(), next(), next(), next()];
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(lines, [some("one"), some("two"), some(""), some("한"), None]);
    }

    #[test]
    fn what_is_no_line_of_text_is_refused() {
        let text = |input: &mut dyn BufRead| one(&mut { input }, 7).unwrap_err().to_string();
        assert!(text(&mut &b"ab\xff\n"[..]).contains("line 7: not UTF-8 at byte 2"));
        assert!(text(&mut io::BufReader::new(io::repeat(b'x'))).contains("longer than 16 MiB"));
    }
}
