//! kvant makes a neural network small, tells honestly what that cost, and runs it: the library.
//!
//! Re-exports only; each crate's own documentation says what it is.

pub use kvant_core as core;
pub use kvant_eval as eval;
pub use kvant_io as io;
pub use kvant_kernels as kernels;
pub use kvant_model as model;
pub use kvant_quant as quant;
