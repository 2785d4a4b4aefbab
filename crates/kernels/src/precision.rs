//! The arithmetic of matrix products.

/// The arithmetic of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Float products. Weights are decoded to floats, and activations are not rounded.
    #[default]
    Float,
    /// Integer products. The integer codes of the weights are used directly, and activations are rounded to a
    /// precision. Weights without integer codes are multiplied as floats.
    Integer(Precision),
}

/// The precision of the rounded activations in integer products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8-bit codes with one scale per 32 values, as in llama.cpp.
    Int8,
    /// Like [`Precision::Int8`], but outliers stay floats and are not rounded. The absolute value of an outlier is
    /// larger than 2.5 times the mean absolute value of its row.
    #[default]
    Int8Outliers,
    /// Two rows of 8-bit codes per row of activations. The second row holds the rounding errors of the first row.
    Int16,
}

impl Precision {
    /// All precisions, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Outliers, Self::Int16];
}
