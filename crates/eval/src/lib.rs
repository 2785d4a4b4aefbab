//! How good and how fast: perplexity, KL divergence against a reference, speed and memory.
//!
//! Both models of a comparison run side by side over the same contexts; no logits are stored. The definition is
//! llama-perplexity's (see [`perplexity`]), so that figures can be held against upstream's. Left out, for now:
//! tasks, plots, the HTML report.

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
