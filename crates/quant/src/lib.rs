//! How to shrink: which format each tensor gets, how its values are chosen, and the file that comes out.
//!
//! A [`FileType`] is upstream's mix of formats with its per-tensor rules; [`assign`] gives every tensor of a network
//! its format. The pipeline ([`quantize`]) streams tensor after tensor from [`kvant_model::Weights`] through a
//! [`Solver`] into a [`kvant_io::Sink`], and then checks the written file. [`convert`] is the same path with every
//! format kept. [`Lattice`] carries weights that lie on a quantization lattice already over as they are.
//!
//! Invariant: what is written depends on input and recipe alone, not on threads or instruction set. Left out, for
//! now: calibration and the solvers that need it.

mod card;
mod error;
mod file_type;
mod lattice;
mod pipeline;
mod solver;
mod validate;

pub use card::{Card, HostCard};
pub use error::Error;
pub use file_type::{Assignment, FILE_TYPES, FileType, Override, assign};
pub use lattice::Lattice;
pub use pipeline::{Progress, Recipe, Report, TensorReport, convert, plan_tensors, planned_bytes, quantize};
pub use solver::{METHODS, RoundToNearest, Solved, Solver, method};
pub use validate::{Expected, validate};
