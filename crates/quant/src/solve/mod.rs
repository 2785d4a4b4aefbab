//! The quantization methods and their registry. A method chooses the stored values of a tensor in a given format.
//!
//! Invariant: the bytes depend only on the layer, the format and the settings. They do not depend on the number of
//! threads.

mod act_order;
mod correction;
mod damping_search;
mod descent;
mod diagonal_als;
mod encoding;
mod experts;
mod factor;
mod flag;
mod gptq;
mod hessian;
mod importance_weighted;
mod lattice;
mod round_to_nearest;
mod row_feedback;
mod scales;
mod solver;
mod sorted;

pub use correction::ROWS as CORRECTED_ROWS;
pub use encoding::first_not_finite;
pub use experts::solve_experts;
pub use flag::Flag;
pub use hessian::{Hessian, SLAB};
pub use importance_weighted::{ImportanceWeighted, flags as importance_flags};
pub use lattice::Lattice;
pub use round_to_nearest::RoundToNearest;
pub use solver::{Layer, Need, Settings, Solved, Solver, is_zero};

/// All methods, from the simplest to the most complex.
pub static METHODS: &[&dyn Solver] = &[
    &RoundToNearest,
    &ImportanceWeighted,
    &Hessian { name: "gptq", descent: false, correction: false, coupling: false, choose: false },
    &Hessian { name: "descent", descent: true, correction: false, coupling: false, choose: false },
    &Hessian { name: "corrected", descent: true, correction: true, coupling: false, choose: false },
    &Hessian { name: "coupled", descent: true, correction: true, coupling: true, choose: false },
    &Hessian { name: "auto", descent: true, correction: true, coupling: true, choose: true },
];

/// Returns the method with this name.
pub fn method(name: &str) -> Option<&'static dyn Solver> {
    METHODS.iter().copied().find(|m| m.name() == name)
}
