//! kvant makes a neural network small, tells honestly what that cost, and runs it: the library.
//!
//! Each crate's own documentation says what it is. What a job decides beside them stands here: [`calibration`] makes
//! calibration contexts of texts. The folder `examples` shows a chat, an evaluation, quantization and a solver of one's own.
//!
//! ```
//! use kvant::{io, kernels::Backend, kernels::Isa, model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo");
//! let checkpoint = io::open(demo.as_ref(), &io::Limits::default())?;
//! let weights = model::Weights::new(checkpoint)?;
//! let tokenizer = model::Tokenizer::from_meta(weights.checkpoint().meta())?.expect("a tokenizer");
//! let network = model::Transformer::load(&weights, Backend::new(Isa::best(), 1))?;
//! let prompt = tokenizer.encode("Once upon a time", model::Special { add: true, parse: false })?;
//! let logits = network.next_logits(&mut network.sequence(64), &prompt)?;
//! assert_eq!(logits.len(), network.spec().vocabulary);
//! # Ok(())
//! # }
//! ```

mod calibration;
mod error;
mod noise;

pub use calibration::{CALIBRATION_CONTEXT, Calibrated, CalibrationText, calibration, calibration_tokens};
pub use error::Error;
pub use kvant_core as core;
pub use kvant_eval as eval;
pub use kvant_io as io;
pub use kvant_kernels as kernels;
pub use kvant_model as model;
pub use kvant_quant as quant;
