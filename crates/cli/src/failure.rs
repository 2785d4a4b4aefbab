//! Why the program ends without a result, and the exit status that says so.

use std::ffi::OsString;
use std::fmt;

/// An end without a result.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The input or the machine is at fault: status 1.
    Fault(String),
    /// The command line asks for what cannot be: status 2.
    Usage(String),
    /// The user stopped it: status 130.
    Interrupted,
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Fault(_) => 1,
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
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
        }
    }
}

macro_rules! fault {
    ($($type:ty),*) => {$(
        impl From<$type> for Failure {
            fn from(error: $type) -> Self {
                Self::Fault(error.to_string())
            }
        }
    )*};
}

fault!(
    kvant::io::Error,
    kvant::model::Error,
    kvant::model::TokenizerError,
    kvant::model::TemplateError,
    kvant::model::SamplerError,
    std::io::Error
);

impl From<kvant::quant::Error> for Failure {
    fn from(error: kvant::quant::Error) -> Self {
        match error {
            kvant::quant::Error::Interrupted => Self::Interrupted,
            other => Self::Fault(other.to_string()),
        }
    }
}

impl From<kvant::eval::Error> for Failure {
    fn from(error: kvant::eval::Error) -> Self {
        match error {
            kvant::eval::Error::Interrupted => Self::Interrupted,
            other => Self::Fault(other.to_string()),
        }
    }
}

impl From<kvant::kernels::Error> for Failure {
    fn from(error: kvant::kernels::Error) -> Self {
        Self::Usage(error.to_string())
    }
}
