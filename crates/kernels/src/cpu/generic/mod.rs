//! Kernels with one source for all instruction sets, written with SIMD traits or as plain loops. Each instruction set
//! compiles them for its own processor features.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
pub(crate) mod activation_rows;
pub(crate) mod attention_kernel;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
mod columns;
pub(crate) mod float_tile;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
pub(crate) mod int8_dot;
pub(crate) mod lanes;
pub(crate) mod loops;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
pub(crate) mod outliers;
mod page_formats;
#[cfg(test)]
mod portable;
pub(crate) mod recurrent;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
pub(crate) mod simd;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
pub(crate) mod unpack;
