//! The plan of a file: its mix of formats, the format of each tensor, formats for a budget, memory use.

mod allocation;
mod assignments;
mod file_type;
mod memory;
mod recipe;

pub use allocation::{Allocation, Candidate, allocate};
pub use assignments::{kept, map_kind, plan_tensors, planned, planned_bytes, prevailing_file_type};
pub use file_type::{Assignment, FILE_TYPES, FileType, Override, Reach, assign};
pub use memory::{allocation_bytes, memory_bytes, work_bytes};
pub use recipe::{Formats, Recipe};
