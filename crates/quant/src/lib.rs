//! How to shrink: which format each tensor gets, how its values are chosen, and the file that comes out.
//!
//! A [`FileType`] is upstream's mix of formats with its per-tensor rules; [`assign`] gives every tensor of a network
//! its format. The pipeline ([`quantize`]) streams tensor after tensor from [`kvant_model::Weights`] through a
//! [`Solver`] into a [`kvant_io::Sink`], and then checks the written file. [`convert`] is the same path with every
//! format kept. [`Importance`] reads and writes llama.cpp's importance files, which say what columns matter most;
//! [`Lattice`] carries weights that lie on a quantization lattice already over as they are.
//!
//! Methods that look at activations walk through the network block by block, on calibration text (`stream`), and keep
//! what they have solved in a work folder (`work`), so that they can be stopped at any moment.
//!
//! Invariant: what is written depends on input, recipe and text alone, not on threads or interruptions; for methods
//! without a Hessian not on the instruction set either.

mod activations;
mod allocation;
mod calibration;
mod card;
mod cost;
mod error;
mod file_type;
mod head;
pub mod importance;
mod lattice;
mod memory;
mod own_text;
mod pipeline;
mod recipe;
mod sensitivity;
mod solver;
mod statistics;
mod stream;
mod validate;
mod work;
mod write;

pub use allocation::{Allocation, Candidate, Formats, allocate};
pub use calibration::Calibration;
pub use card::{CalibrationCard, Card, HostCard};
pub use cost::{Cost, Step};
pub use error::{Error, ImportanceFault};
pub use file_type::{Assignment, FILE_TYPES, FileType, Override, Reach, assign};
pub use importance::{Importance, gather_importance};
pub use lattice::Lattice;
pub use memory::{allocation_bytes, memory_bytes};
pub use own_text::OWN_TEXT_START;
pub use pipeline::{
    Progress, Report, TensorReport, convert, converted_bytes, overhead_bytes, plan_tensors, planned_bytes,
    quantize, work_bytes,
};
pub use recipe::Recipe;
pub use sensitivity::Sensitivity;
pub use solver::{
    Hessian, ImportanceWeighted, Layer, METHODS, Need, RoundToNearest, Settings, Solved, Solver, method,
};
pub use statistics::{Inputs, Missing, Statistics};
pub use stream::Expected;
pub use validate::{Written, validate};
pub use work::{check_work_folder, read_work_folder};
