//! What a processor does: matrix products on stored weights, and the other operations of a network.
//!
//! [`Backend::load`] takes a [`kvant_core::Tensor`] once, chooses the kernel for this processor and may repack the
//! bytes; what comes back is a [`Matrix`] that multiplies. Kernel layouts never reach a file.
//!
//! Invariants: every result is the same for any number of threads, because work is cut by shape alone; the scalar
//! path ([`Isa::Scalar`]) is the oracle of every other. A shape that doesn't fit is the caller's bug and panics at
//! the boundary. Left out on purpose: files, the network's structure, and which sequences there are.
#![allow(unsafe_code)]
// Tokens and constants of instruction sets that only x86-64 has.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod attention;
mod backend;
mod cpu;
pub mod dense;
mod error;
pub mod gradient;
mod input;
mod isa;
mod key_values;
pub mod ops;
mod pool;
mod probe;
mod region;
mod scratch;
mod shared;

pub use attention::{AttentionShape, Qkv, Ragged, attention};
pub use backend::{Arithmetic, Backend, Matrix, Precision, apply_all, kernel};
pub use error::Error;
pub use input::Input;
pub use isa::{Isa, features};
pub use key_values::{KeyValues, KvFormat, PagePool};
pub use pool::Pool;
pub use probe::Probe;
