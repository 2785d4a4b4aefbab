//! Operation counts of a pass through linear maps.

use kvant_kernels::{Arithmetic, Matrix};

/// Multiply-adds of matrix products, and weight bytes that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCount {
    /// Integer multiply-adds.
    pub integer_multiply_adds: usize,
    /// Floating-point multiply-adds.
    pub float_multiply_adds: usize,
    /// Bytes of weights.
    pub weight_bytes: usize,
}

impl OpCount {
    /// Counts one token through one map.
    pub(crate) fn of(map: &dyn Matrix) -> Self {
        let (count, weight_bytes) = (map.rows() * map.columns(), map.weight_bytes());
        match map.arithmetic() {
            Arithmetic::Float => Self { float_multiply_adds: count, weight_bytes, ..Self::default() },
            Arithmetic::Integer(_) => Self { integer_multiply_adds: count, weight_bytes, ..Self::default() },
        }
    }

    /// Scales the counts to `tokens` tokens in `passes` passes. Each pass reads the weights once.
    #[must_use]
    pub fn times(self, tokens: usize, passes: usize) -> Self {
        Self {
            integer_multiply_adds: self.integer_multiply_adds * tokens,
            float_multiply_adds: self.float_multiply_adds * tokens,
            weight_bytes: self.weight_bytes * passes,
        }
    }

    /// Returns the sum of both counts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            integer_multiply_adds: self.integer_multiply_adds + other.integer_multiply_adds,
            float_multiply_adds: self.float_multiply_adds + other.float_multiply_adds,
            weight_bytes: self.weight_bytes + other.weight_bytes,
        }
    }
}

impl std::iter::Sum for OpCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::plus)
    }
}
