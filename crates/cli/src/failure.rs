//! The reasons why the program ends without a result, and their exit statuses.

use crate::terminal;
use std::ffi::OsString;
use std::{fmt, io};

/// The reason why the program ends without a result.
#[derive(Clone, Debug)]
pub enum Failure {
    /// An error of the input or of the machine, with its message: status 1.
    Fault(String),
    /// An error of the command line, with its message: status 2.
    Usage(String),
    /// The user stopped the program: status 130.
    Interrupted,
    /// The reader of the results has closed the pipe: status 141, without a message. A shell reports the same status
    /// (128 + 13) for a program that the signal SIGPIPE has ended, for example in a pipe to `head`.
    ClosedPipe,
}

impl Failure {
    /// Returns the exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Fault(_) => 1,
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
            Self::ClosedPipe => 141,
        }
    }

    /// Prints the reason on stderr and returns the exit status. Prints nothing if the reader has closed the pipe.
    pub fn tell(&self) -> u8 {
        if !matches!(self, Self::ClosedPipe) {
            terminal::say(self);
        }
        self.status()
    }

    /// Creates the failure for results that cannot be printed.
    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Fault(format!("standard output: writing failed: {error}")),
        }
    }

    /// Creates the failure for a command that is planned but not built yet, or for an unknown command.
    pub fn unbuilt(words: &[OsString]) -> Self {
        let name = words.first().map(|w| w.to_string_lossy().into_owned()).unwrap_or_default();
        if ["fit", "qat"].contains(&name.as_str()) {
            Self::Usage(format!("`{name}` is not built yet"))
        } else {
            Self::Usage(format!("there is no command `{name}`; see `kvant --help`"))
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(text) | Self::Usage(text) => f.write_str(text),
            Self::Interrupted => f.write_str("interrupted"),
            Self::ClosedPipe => f.write_str("standard output is closed"),
        }
    }
}

impl From<kvant::io::Error> for Failure {
    fn from(error: kvant::io::Error) -> Self {
        kvant::Error::from(error).into()
    }
}

impl From<kvant::Error> for Failure {
    fn from(error: kvant::Error) -> Self {
        match error {
            error if error.is_interruption() => Self::Interrupted,
            error if error.is_usage() => Self::Usage(error.to_string()),
            error => Self::Fault(error.to_string()),
        }
    }
}

impl From<kvant::kernels::Error> for Failure {
    fn from(error: kvant::kernels::Error) -> Self {
        Self::Usage(error.to_string())
    }
}
