//! Writing a file: each tensor solved or copied, the whole read back and checked, and what there is to say of it.

mod card;
mod report;
mod tensors;
mod validation;

pub use card::{CARD_KEY, CARD_LIMIT_BYTES, CalibrationCard, Card, HostCard};
pub use report::{FileReport, Report, TensorReport};
pub use tensors::write;
pub use validation::{Written, validate};
