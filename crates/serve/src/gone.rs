//! Tells that a model has left the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is set when its owner is dropped. As the last field of a structure, it is dropped after the others.
#[derive(Debug, Default)]
pub struct Gone(Arc<AtomicBool>);

impl Gone {
    /// The flag.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
