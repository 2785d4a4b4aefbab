//! The walk: runs and solves a network block by block, for methods that need activations.

mod block_runner;
mod cost;
mod embedding_and_head;
mod layerwise;
mod residual_pair;
mod solutions;
mod stages;
mod unit;

pub use cost::{Cost, Step};
pub use embedding_and_head::Expected;
pub use stages::Walk;
pub use unit::read_work_folder;
