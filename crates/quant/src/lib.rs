//! How to shrink: which format each tensor gets, how its values are chosen, and the file that comes out.
//!
//! A [`FileType`] is upstream's mix of formats with its per-tensor rules; [`assign`] gives every tensor of a network
//! its format. [`quantize`] takes tensor after tensor from [`kvant_model::Weights`] through a [`Solver`] into a
//! [`kvant_io::Sink`], and checks the written file. [`convert`] does the same with every format kept. [`Importance`]
//! reads and writes llama.cpp's importance files. [`Lattice`] carries weights over that lie on a quantization lattice
//! already.
//!
//! Each folder is a step, and imports only earlier ones:
//!
//! ```text
//! gather   calibration contexts, self-generated text, sums over inputs and gradients, importance
//! solve    the methods: a layer and what is known of it → final bytes
//! plan     recipe, file types, formats for a budget, memory
//! walk     the network layer by layer, for methods that look at activations; a work folder makes it resumable
//! write    the file, its check, the card
//! ```
//!
//! Invariant: what is written depends on input, recipe and text alone, not on threads or interruptions; for methods
//! without a Hessian not on the instruction set either.

mod convert;
mod error;
mod gather;
mod plan;
mod quantize;
mod solve;
mod walk;
mod work_folder;
mod write;

pub use kvant_eval::Progress;

pub use convert::{convert, converted_bytes};
pub use error::{Error, ImportanceFault};
pub use gather::{
    Calibration, Importance, Inputs, Missing, SELF_GENERATED_START, Sensitivity, Statistics,
    gather_importance, importance,
};
pub use plan::{
    Allocation, Assignment, Candidate, FILE_TYPES, FileType, Formats, Override, Reach, Recipe, allocate,
    allocation_bytes, assign, memory_bytes, plan_tensors, planned_bytes, work_bytes,
};
pub use quantize::{overhead_bytes, quantize};
pub use solve::{
    Hessian, ImportanceWeighted, Lattice, Layer, METHODS, Need, RoundToNearest, Settings, Solved, Solver,
    method,
};
pub use walk::{Cost, Expected, Step, read_work_folder};
pub use work_folder::check_work_folder;
pub use write::{CalibrationCard, Card, FileReport, HostCard, Report, TensorReport, Written, validate};
