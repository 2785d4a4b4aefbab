//! The description of a gated delta net.

use super::{ConvolutionSlot, Norm, Slot, VectorSlot};
use kvant_kernels::DeltaShape;

/// The maps of the strengths and of the steps of a gated delta net: one number for each value head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadScalars {
    /// One map each.
    Separate {
        /// The strengths, before the sigmoid function.
        strength: Slot,
        /// The steps, before the softplus function.
        step: Slot,
    },
    /// One map for both: for each key head, the rows of the strengths of its value heads, then those of their steps.
    Fused(Slot),
}

impl HeadScalars {
    /// The maps, in the order strengths, steps.
    pub fn slots(&self) -> Vec<&Slot> {
        match self {
            Self::Separate { strength, step } => vec![strength, step],
            Self::Fused(slot) => vec![slot],
        }
    }
}

/// A gated delta net: a recurrent layer whose state has a fixed size.
///
/// The convolution of `qkv` x, followed by SiLU, gives queries, keys and values. The result of the gated delta rule is
/// normalized for each head, multiplied by silu(`gate` x), and mapped by `output`. Queries and keys have the norm 1; the
/// queries are then divided by √(key size). With the strength β = sigmoid(strength x) and the logarithm of the decay
/// g = `decay` · softplus(step x + `step_bias`), the rule is that of [`kvant_kernels::delta_rule`]. Source: Yang et al.,
/// Gated Delta Networks, arXiv 2412.06464.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNet {
    /// The sizes of heads and states.
    pub shape: DeltaShape,
    /// Queries, keys and values, in this order.
    pub qkv: Slot,
    /// The gate, one row for each value.
    pub gate: Slot,
    /// Strengths and steps.
    pub scalars: HeadScalars,
    /// The convolution of queries, keys and values.
    pub convolution: ConvolutionSlot,
    /// The factor of the logarithm of the decay, for each value head. Below 0.
    pub decay: VectorSlot,
    /// Added to the steps, for each value head.
    pub step_bias: VectorSlot,
    /// Norm of each head of the result.
    pub norm: Norm,
    /// The output projection.
    pub output: Slot,
}

impl DeltaNet {
    /// The maps that read the input.
    pub(super) fn first_slots(&self) -> Vec<&Slot> {
        [&self.qkv, &self.gate].into_iter().chain(self.scalars.slots()).collect()
    }

    /// The number of floats in the state of one sequence: the last inputs of the convolution, and the state of the rule.
    pub fn state_length(&self) -> usize {
        self.convolution.state_length() + self.shape.state_length()
    }
}
