//! What a processor does: matrix products on stored weights, and the other operations of a network.
//!
//! [`Backend::load`] takes a [`kvant_core::Tensor`] once, chooses the kernel for this processor and may repack the
//! bytes; what comes back is a [`Matrix`] that multiplies. Kernel layouts never reach a file.
#![allow(unsafe_code)]
