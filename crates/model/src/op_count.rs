//! What a pass through some maps multiplies and reads.

use kvant_kernels::{Arithmetic, Matrix};

/// Multiply-adds of matrix products, and bytes of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCount {
    /// Multiply-adds of integers.
    pub integer_multiply_adds: usize,
    /// Multiply-adds of numbers.
    pub float_multiply_adds: usize,
    /// Bytes of weights.
    pub weight_bytes: usize,
}

impl OpCount {
    /// One token through one map.
    pub(crate) fn of(map: &dyn Matrix) -> Self {
        let (count, weight_bytes) = (map.rows() * map.columns(), map.weight_bytes());
        match map.arithmetic() {
            Arithmetic::Float => Self { float_multiply_adds: count, weight_bytes, ..Self::default() },
            Arithmetic::Integer(_) => Self { integer_multiply_adds: count, weight_bytes, ..Self::default() },
        }
    }

    /// The same for `tokens` tokens in `passes` passes, each of which reads the weights once.
    #[must_use]
    pub fn times(self, tokens: usize, passes: usize) -> Self {
        Self {
            integer_multiply_adds: self.integer_multiply_adds * tokens,
            float_multiply_adds: self.float_multiply_adds * tokens,
            weight_bytes: self.weight_bytes * passes,
        }
    }

    /// Both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            integer_multiply_adds: self.integer_multiply_adds + other.integer_multiply_adds,
            float_multiply_adds: self.float_multiply_adds + other.float_multiply_adds,
            weight_bytes: self.weight_bytes + other.weight_bytes,
        }
    }
}
