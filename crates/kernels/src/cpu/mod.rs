//! Matrices on a CPU, and the kernels of each instruction set.
//!
//! ```text
//! codes/          integer codes in panels: layouts, packing, rounded activations (plain data)
//! generic/        kernels that are written once, over SIMD traits
//! reference/      the reference kernels: plain loops in a fixed order, for any processor
//! x86/, aarch64/  kernels of one architecture; each instruction set is one row of `instruction_sets.rs`
//! ```
//!
//! Three kinds of matrices use these kernels: [`dequantized`] (keeps the stored format and decodes it during the
//! product), [`packed_float`] (floats in panels) and [`packed_codes`] (integer codes in panels). `kvant-core` decodes
//! the formats.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod codes;
pub(crate) mod dequantized;
mod float_product;
pub(crate) mod generic;
pub(crate) mod instruction_set;
pub(crate) mod instruction_sets;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod multiversion;
pub(crate) mod packed_codes;
pub(crate) mod packed_float;
mod prefetch;
mod reference;
pub(crate) mod rounded;
#[cfg(target_arch = "x86_64")]
mod x86;
