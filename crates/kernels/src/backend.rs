//! The processor as the rest of the program sees it: threads and an instruction set.

use crate::cpu::instruction_set::Detected;
use crate::cpu::instruction_sets::detect;
use crate::{Arithmetic, Isa, Pool, Precision};
use std::sync::Arc;

/// An instruction set and a pool of threads. Cloning shares the pool.
#[derive(Clone)]
pub struct Backend {
    isa: Isa,
    cpu: Detected,
    pool: Arc<Pool>,
    arithmetic: Arithmetic,
}

impl Backend {
    /// A backend with a pool of its own; the calling thread counts as one of `threads`.
    ///
    /// Panics if this processor lacks `isa` ([`Isa::by_name`] reports that as an error).
    pub fn new(isa: Isa, threads: usize) -> Self {
        let cpu = detect(isa).expect("the processor has the instruction set asked for");
        Self { isa, cpu, pool: Arc::new(Pool::new(threads)), arithmetic: Arithmetic::Float }
    }

    /// The same with other products.
    #[must_use]
    pub fn with(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
        self
    }

    /// The same for matrices whose products have to be near exact: sixteen bits in the place of eight with outliers.
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

    /// How many threads work, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The kernels of the instruction set in use.
    pub(crate) fn cpu(&self) -> Detected {
        self.cpu
    }

    /// What products multiply.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }
}
