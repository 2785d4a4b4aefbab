//! The arithmetic of matrix products.

/// Arithmetic of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Floats: weights are decoded, activations are unchanged.
    #[default]
    Float,
    /// Integers: the codes of the weights are unchanged, and activations are rounded to a precision. Weights without
    /// integer codes are multiplied as floats.
    Integer(Precision),
}

/// Precision of the rounded activations in integer products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8 bits, one scale per 32 values, as in llama.cpp.
    Int8,
    /// As [`Precision::Int8`], but outliers stay unchanged floats. An outlier is larger than 2.5 times the mean
    /// absolute value of its row.
    #[default]
    Int8Outliers,
    /// Two rows of 8 bits; the second row holds the rounding error of the first row.
    Int16,
}

impl Precision {
    /// All precisions, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Outliers, Self::Int16];
}
