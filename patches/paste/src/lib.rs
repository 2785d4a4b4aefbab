//! The macros of `paste`, which nobody maintains any more (RUSTSEC-2024-0436), by `pastey`, its maintained successor.
//!
//! `gemm` and `pulp` still name `paste`; `[patch.crates-io]` gives them this. It goes when they name another.
#![no_std]

pub use pastey::{expr, item, paste};
