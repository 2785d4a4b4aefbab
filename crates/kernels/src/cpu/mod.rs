//! Matrices on a CPU, and the kernels of each instruction set.
//!
//! ```text
//! codes/          data types: integer codes in panels, their layouts and packing, and rounded activations
//! generic/        kernels with one source for all instruction sets, written with SIMD traits or as plain loops
//! reference/      the reference kernels for any processor: plain loops that add in a fixed order
//! x86/, aarch64/  kernels of one architecture; each instruction set is one row of `instruction_sets.rs`
//! ```
//!
//! A panel is 8, 16 or 32 rows of a matrix that are stored side by side, so that one vector holds values of several
//! rows.
//!
//! Three kinds of matrices use these kernels:
//!
//! - [`dequantized`] keeps the stored format and decodes it during the product,
//! - [`packed_float`] stores floats in panels,
//! - [`packed_codes`] stores integer codes in panels.
//!
//! `kvant-core` decodes the formats.

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
