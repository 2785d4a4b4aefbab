//! The library of kvant. It quantizes a neural network, measures the loss, and runs the network.
//!
//! Each job has one type: a struct of options. `new` returns the default options. `run` does the work of the command
//! with the same name, and reports to a [`Progress`]. Jobs work on a [`Model`].
//!
//! | job | purpose |
//! |---|---|
//! | [`Quantize`] | quantizes a model |
//! | [`Evaluate`] | perplexity, KL divergence from a reference |
//! | [`Embed`], [`EvaluateVectors`] | vectors of texts, their agreement with those of a reference |
//! | [`Compare`] | compares several file types of one model |
//! | [`Generate`], [`Chat`] | continues a prompt, holds a conversation |
//! | [`Bench`] | speed, absolute and as a share of the machine's limits |
//! | [`Convert`] | writes the same values into another container |
//! | [`GatherImportance`] | llama.cpp's importance matrix |
//! | [`Logits`], [`inspect()`], [`Machine`] | diagnosis of a network, a file, a machine |
//!
//! ```
//! use kvant::kernels::{Backend, Isa};
//! use kvant::{DEMO_TEXT, Evaluate, Model, Quantize};
//!
//! # fn main() -> Result<(), kvant::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let output = folder.path().join("small.gguf");
//! let (model, backend) = (Model::open("demo".as_ref())?, Backend::new(Isa::best(), 2));
//! let job = Quantize { method: Some("rtn".to_owned()), ..Quantize::new(&model, &output) };
//! job.run(&backend, &())?;
//! let small = Model::open(&output)?;
//! let job = Evaluate {
//!     reference: Some(&model),
//!     context: 64,
//!     contexts: Some(2),
//!     ..Evaluate::new(&small, DEMO_TEXT)
//! };
//! assert!(job.run(&backend, &())?.kld_mean.unwrap() < 0.1);
//! # Ok(())
//! # }
//! ```
//!
//! The underlying crates are re-exported as modules with their own documentation. The folder `examples` shows a chat,
//! an evaluation, a quantization and a custom solver.

mod bench;
mod calibration;
mod chat;
mod compare;
mod convert;
mod demo;
mod embed;
mod error;
mod evaluate;
mod evaluate_vectors;
mod generate;
mod importance;
mod inspect;
mod logits;
mod machine;
mod noise;
mod opened;
mod quantize;

pub use bench::{Bench, Benched};
pub use calibration::{CALIBRATION_CONTEXT, Calibrated, CalibrationText, calibration, calibration_tokens};
pub use chat::{Chat, Event, Refusal};
pub use compare::{Alone, Compare, CompareRow, Compared, RunAlone};
pub use convert::{Convert, Converted};
pub use demo::{DEMO_TEXT, is_demo};
pub use embed::{Embed, Embedded, TextEncoder, TextIds};
pub use error::Error;
pub use evaluate::Evaluate;
pub use evaluate_vectors::{EvaluateVectors, VectorQuality};
pub use generate::{Generate, Generated};
pub use importance::{GatherImportance, GatheredImportance, TensorImportance};
pub use inspect::{Inspected, InspectedTensor, inspect};
pub use kvant_core as core;
pub use kvant_eval as eval;
pub use kvant_eval::Progress;
pub use kvant_io as io;
pub use kvant_kernels as kernels;
pub use kvant_model as model;
pub use kvant_quant as quant;
pub use kvant_report as report;
pub use logits::{Logits, LogitsResult, TopToken};
pub use machine::{Cpu, FormatKernel, Machine};
pub use opened::{Model, Opened, RunSettings, context, fast, lines, read_input, read_text};
pub use quantize::{Budget, Quantize, Quantized};
