//! What products multiply.

/// What products multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Numbers: weights are decoded, activations stay as they are.
    #[default]
    Float,
    /// Integers: weights' codes as they are, activations rounded to a precision. Weights without integer codes are
    /// multiplied as numbers.
    Integer(Precision),
}

/// To what activations are rounded before integers meet them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Eight bits, 32 numbers under one scale: as llama.cpp does.
    Int8,
    /// The same, but a row's outliers, those larger than 2.5 times its mean size, stay as they are.
    #[default]
    Int8Outliers,
    /// Two rows of eight bits, the second of what the first one lost.
    Int16,
}

impl Precision {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Outliers, Self::Int16];
}
