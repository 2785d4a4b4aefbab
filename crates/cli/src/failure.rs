//! Why the program ends without a result, and the exit status that says so.

use crate::terminal;
use std::ffi::OsString;
use std::path::Path;
use std::{fmt, io};

/// An end without a result.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The input or the machine is at fault: status 1.
    Fault(String),
    /// The command line asks for what cannot be: status 2.
    Usage(String),
    /// The user stopped it: status 130.
    Interrupted,
    /// The reader of the results has closed the pipe: no message. Status 141 = 128 + 13, the one that a shell reports
    /// for a program that SIGPIPE has ended, as for other tools before `head`.
    ClosedPipe,
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Fault(_) => 1,
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
            Self::ClosedPipe => 141,
        }
    }

    /// Says why the program ends, unless nobody listens any more; the exit status.
    pub fn tell(&self) -> u8 {
        if !matches!(self, Self::ClosedPipe) {
            terminal::say(self);
        }
        self.status()
    }

    /// An error of the file system at `path`, while the program is `doing` something.
    pub fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        kvant::io::Error::Io { path: path.into(), doing, source }.into()
    }

    /// Results that cannot be printed.
    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Fault(format!("standard output: writing failed: {error}")),
        }
    }

    /// A command that no release has built yet, or none at all.
    pub fn unbuilt(words: &[OsString]) -> Self {
        let name = words.first().map(|w| w.to_string_lossy().into_owned()).unwrap_or_default();
        if ["fit", "qat", "serve"].contains(&name.as_str()) {
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
            // A sampling flag outside its range.
            kvant::Error::Sampler(error @ kvant::model::SamplerError::Setting { .. }) => {
                Self::Usage(error.to_string())
            }
            error => Self::Fault(error.to_string()),
        }
    }
}

impl From<kvant::kernels::Error> for Failure {
    fn from(error: kvant::kernels::Error) -> Self {
        Self::Usage(error.to_string())
    }
}
