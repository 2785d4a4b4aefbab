//! Quantization of a network: chooses the format of each tensor, chooses the quantized values, writes the file.
//!
//! A [`FileType`] is upstream's mix of formats with its per-tensor rules. [`assign`] gives every tensor of a network
//! its format. [`quantize`] reads each tensor from [`kvant_model::Weights`], chooses its quantized values with a
//! [`Solver`] ("solves" the tensor), puts the result into a [`kvant_io::Sink`], and checks the written file.
//! [`convert`] writes a file in the same way but keeps every format. [`Importance`] reads and writes llama.cpp's
//! importance files. [`Lattice`] transfers weights without loss if the weights are already points of a quantization
//! lattice.
//!
//! Each folder is one step. A folder imports only earlier folders:
//!
//! ```text
//! gather   calibration contexts, self-generated text, sums over inputs and gradients, importance
//! solve    the methods: a layer and its statistics → final bytes
//! plan     recipe, file types, formats for a budget, memory use
//! walk     runs the network block by block, for methods that need activations; a stopped run can resume
//! write    writes the file, validates it, makes the card (a record of how the file was made)
//! ```
//!
//! Invariant: the written file depends only on the input, the recipe and the calibration text. It does not depend on
//! the number of threads or on interruptions. For methods without a Hessian the file does not depend on the instruction
//! set either.

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
    Flag, Hessian, ImportanceWeighted, Lattice, Layer, METHODS, Need, RoundToNearest, Settings, Solved,
    Solver, method,
};
pub use walk::{Cost, Expected, Step, read_work_folder};
pub use work_folder::check_work_folder;
pub use write::{CalibrationCard, Card, FileReport, HostCard, Report, TensorReport, Written, validate};
