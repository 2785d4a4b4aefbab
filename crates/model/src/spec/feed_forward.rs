//! The description of a feed-forward network and of experts.

use super::{Norm, Slot, VectorSlot};
use kvant_kernels::ClampedSwiglu;

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// GELU: x Φ(x), where Φ is the distribution function of the standard normal distribution.
    Gelu,
    /// GELU, approximated by tanh.
    GeluTanh,
    /// SwiGLU with limits. It replaces the whole product of [`Expansion::Gated`]: the up projection is clamped, too.
    ClampedSwiglu(ClampedSwiglu),
}

/// The linear maps that read the input of a feed-forward network.
#[derive(Clone, Debug, PartialEq)]
pub enum Expansion {
    /// activation(up x).
    Plain(Slot),
    /// activation(gate x) · up x.
    Gated {
        /// The gate projection.
        gate: Slot,
        /// The up projection.
        up: Slot,
    },
    /// Like `Gated`, with one map for both; its rows are in the order gate, up.
    FusedGated(Slot),
}

impl Expansion {
    /// The maps, in the order gate, up.
    pub fn slots(&self) -> Vec<&Slot> {
        match self {
            Self::Plain(slot) | Self::FusedGated(slot) => vec![slot],
            Self::Gated { gate, up } => vec![gate, up],
        }
    }
}

/// A feed-forward network: `down(expansion(x))`, or `down(sigmoid(factor x) · expansion(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// The maps that read the input.
    pub expansion: Expansion,
    /// The activation function.
    pub activation: Activation,
    /// A map with one row, for the factor of all that `down` reads.
    pub factor: Option<Slot>,
    /// The down projection.
    pub down: Slot,
}

impl FeedForward {
    /// The maps that read the input.
    pub(super) fn first_slots(&self) -> Vec<&Slot> {
        self.expansion.slots().into_iter().chain(&self.factor).collect()
    }
}

/// The strengths of experts, from their scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Scoring {
    /// The strengths p(i) = e^s(i) / Σ e^s(j), with the sum over all experts. The strongest experts are used.
    Softmax,
    /// The strengths p(i) = 1 / (1 + e^−s(i)). The experts with the largest p(i) + c(i) are used. The correction c balances
    /// the load of the experts. It changes only the choice, and has no gradient.
    Sigmoid {
        /// The correction, one number for each expert.
        correction: VectorSlot,
    },
}

/// Experts: feed-forward networks of one size, of which each token uses few.
///
/// With the scores s = router x, the strengths p of [`Scoring`], and the set U of the `used` experts, the result is
/// Σ w(i) · expert(i)(x) over i in U. The factors are w(i) = `scale` · p(i) / Σ p(j) with the sum over U if `normalized` is
/// true, otherwise w(i) = `scale` · p(i). Source: Shazeer et al., Outrageously Large Neural Networks, arXiv 1701.06538,
/// section 2; DeepSeek-AI, DeepSeek-V3, arXiv 2412.19437, section 2.1.2.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// The number of experts.
    pub count: usize,
    /// The number of experts that a token uses.
    pub used: usize,
    /// The map of the scores; one row for each expert.
    pub router: Slot,
    /// Norm of the residual stream for the router; `None` if the router reads the same input as the experts.
    pub router_norm: Option<Norm>,
    /// Factor of the norm's result.
    pub router_scale: f32,
    /// The strengths of the experts, and the choice of the used experts.
    pub scoring: Scoring,
    /// True if the strengths of the used experts are divided by their sum.
    pub normalized: bool,
    /// Factor of all results.
    pub scale: f32,
    /// For each expert, one more factor of its result.
    pub result_scales: Option<VectorSlot>,
    /// All experts; each slot holds the maps of all of them.
    pub feed_forward: FeedForward,
}

impl Experts {
    pub(super) fn correction(&self) -> Option<&VectorSlot> {
        match &self.scoring {
            Scoring::Softmax => None,
            Scoring::Sigmoid { correction } => Some(correction),
        }
    }
}
