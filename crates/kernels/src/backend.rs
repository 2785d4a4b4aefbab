//! The backend, which is the interface of this crate to the processor. It has an instruction set and a pool of threads.

use crate::cpu::instruction_set::Detected;
use crate::cpu::instruction_sets::detect;
use crate::{Arithmetic, Isa, Pool, Precision};
use std::sync::Arc;

/// An instruction set and a pool of threads. A clone shares the pool.
#[derive(Clone)]
pub struct Backend {
    isa: Isa,
    cpu: Detected,
    pool: Arc<Pool>,
    arithmetic: Arithmetic,
}

impl Backend {
    /// Creates a backend with its own thread pool. The calling thread counts as one of `threads`.
    ///
    /// Panics if this processor does not have the instruction set `isa`. [`Isa::by_name`] returns an error instead.
    pub fn new(isa: Isa, threads: usize) -> Self {
        let cpu = detect(isa).expect("the processor has the instruction set asked for");
        Self { isa, cpu, pool: Arc::new(Pool::new(threads)), arithmetic: Arithmetic::Float }
    }

    /// Returns the same backend with another arithmetic for matrix products.
    #[must_use]
    pub fn with(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
        self
    }

    /// Returns a backend for matrices whose products must be almost exact. It uses [`Precision::Int16`] instead of
    /// [`Precision::Int8Outliers`].
    #[must_use]
    pub fn precise(mut self) -> Self {
        if self.arithmetic == Arithmetic::Integer(Precision::Int8Outliers) {
            self.arithmetic = Arithmetic::Integer(Precision::Int16);
        }
        self
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads, including the calling thread.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The thread pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The kernels of the instruction set in use.
    pub(crate) fn cpu(&self) -> Detected {
        self.cpu
    }

    /// The arithmetic of matrix products.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }
}
