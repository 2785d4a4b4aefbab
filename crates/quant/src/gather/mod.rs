//! Data that methods use to solve a network: calibration contexts, self-generated text, sums over the inputs of linear
//! layers (maps), gradients at the outputs of maps, importance of columns.

mod activation_file;
mod calibration;
pub mod importance;
mod output_head;
mod seed;
mod self_generated;
mod sensitivity;
mod statistics;

pub use activation_file::ActivationFile;
pub use calibration::Calibration;
pub use importance::{Importance, gather_importance};
pub use output_head::{GRADIENT_LOGITS, Head, LOGIT_ROWS, compared_positions};
pub use seed::Seed;
pub use self_generated::{SELF_GENERATED_START, self_generated_bytes, with_self_generated};
pub use sensitivity::{
    BlockSensitivities, CONTEXTS as SENSITIVITY_CONTEXTS, PIECE, Sensitivity, gather as gather_sensitivities,
    of_block as sensitivities_of_block, square_values, work_bytes as sensitivity_bytes,
};
pub use statistics::{Inputs, Missing, Statistics, missing_of_experts};
