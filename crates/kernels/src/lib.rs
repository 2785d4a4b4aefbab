//! The CPU kernels: matrix products with stored weights, and the other operations of a network.
//!
//! [`Backend::load`] converts a [`kvant_core::Tensor`] to a [`Matrix`]. It chooses the kernel for this processor and
//! may repack the bytes. The repacked layouts are never written to a file.
//!
//! Invariants: every result is the same for any number of threads, because only the shapes determine the tasks. The
//! scalar kernels ([`Isa::Scalar`]) are the reference for all other kernels.
//!
//! Wrong shapes are an error of the caller. The public functions check the shapes and panic.
//!
//! Not covered here: files, the structure of the network, and the management of sequences.
#![allow(unsafe_code)]
// Some kernels are called only on some architectures.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod attention;
mod backend;
mod clamped_swiglu;
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
mod page_pool;
mod pool;
mod precision;
mod probe;
mod recurrent;
mod scratch;
mod shared;
mod view;

pub use attention::{AttentionShape, Qkv, Ragged, attention, attention_of_held};
pub use backend::Backend;
pub use clamped_swiglu::ClampedSwiglu;
pub use cpu::instruction_sets::features;
pub use error::Error;
pub use input::Input;
pub use isa::Isa;
pub use key_values::KeyValues;
pub use kv_format::KvFormat;
pub use load::{apply_each, kernel};
pub use matrix::Matrix;
pub use page_pool::PagePool;
pub use pool::Pool;
pub use precision::{Arithmetic, Precision};
pub use probe::Probe;
pub use recurrent::{
    Convolution, DeltaGradient, DeltaInput, DeltaShape, HeadOrder, RecurrentState, delta_rule,
    delta_rule_gradient, short_convolution, short_convolution_gradient, unit_rows, unit_rows_gradient,
};
