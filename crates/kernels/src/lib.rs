//! What a processor does: matrix products on stored weights, and the other operations of a network.
//!
//! [`Backend::load`] takes a [`kvant_core::Tensor`] once, chooses the kernel for this processor and may repack the
//! bytes; what comes back is a [`Matrix`] that multiplies. Kernel layouts never reach a file.
//!
//! Invariants: every result is the same for any number of threads, because work is cut by shape alone; the scalar
//! path ([`Isa::Scalar`]) is the oracle of every other. A shape that doesn't fit is the caller's bug and panics at
//! the boundary. Left out on purpose: files, the network's structure, and which sequences there are.
#![allow(unsafe_code)]
// Kernels that only some architectures call.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod attention;
mod backend;
mod cpu;
pub mod dense;
mod error;
pub mod gradient;
mod huge_pages;
mod input;
mod isa;
mod key_values;
mod kv_format;
mod load;
mod matrix;
pub mod ops;
mod pool;
mod precision;
mod probe;
mod scratch;
mod shared;
mod view;

pub use attention::{AttentionShape, Qkv, Ragged, attention};
pub use backend::Backend;
pub use cpu::instruction_sets::features;
pub use error::Error;
pub use input::Input;
pub use isa::Isa;
pub use key_values::{KeyValues, PagePool};
pub use kv_format::KvFormat;
pub use load::{apply_all, kernel};
pub use matrix::Matrix;
pub use pool::Pool;
pub use precision::{Arithmetic, Precision};
pub use probe::Probe;
