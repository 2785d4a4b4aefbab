//! Writes a file: solves or copies each tensor, reads the file back and checks it, and reports the result.

mod card;
mod report;
mod tensors;
mod validation;

pub use card::{CARD_KEY, CARD_LIMIT_BYTES, CalibrationCard, Card, HostCard};
pub use report::{FileReport, Report, TensorReport};
pub use tensors::write;
pub use validation::{Written, validate};
