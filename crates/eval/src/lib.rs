//! Quality and speed of a model: perplexity, KL divergence from a reference, tokens per second and memory.
//!
//! Both models of a comparison run over the same contexts at the same time, so that no logits are stored. The
//! definitions are those of llama-perplexity (see [`perplexity`]), so that results can be compared with llama.cpp.
//!
//! Not covered here: benchmark tasks, plots and the HTML report.

mod bench;
mod energy;
mod error;
mod memory;
mod perplexity;
mod progress;

pub use bench::{BenchRow, Test, bench};
pub use error::Error;
pub use memory::{machine_memory_bytes, peak_resident_bytes};
pub use perplexity::{Contexts, Divergence, Judged, Quality, Scores, evaluate, kl_divergence};
pub use progress::Progress;
