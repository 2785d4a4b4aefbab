//! The processor as the rest of the program sees it: threads, an instruction set, and matrices ready to multiply.

use crate::cpu::{Kernel, Numbers, Operations, Panels, Stored};
use crate::{Error, Isa, Pool};
use kvant_core::{Bytes, FormatRef, Shape, Tensor};
use std::sync::Arc;

/// What products multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Numbers: weights are decoded, activations stay as they are.
    #[default]
    Float,
    /// Integers: weights' codes as they are, activations rounded to eight bits, 32 under one scale. As fast as this
    /// processor can, at the price of the rounding. Weights without integer codes are multiplied as numbers.
    Integer,
}

/// A matrix of stored weights, `rows × columns`, that multiplies.
pub trait Matrix: Send + Sync {
    /// The weights as they were given.
    fn tensor(&self) -> &Tensor;

    /// Numbers a result has for each row of activations.
    fn rows(&self) -> usize {
        self.tensor().shape().rows()
    }

    /// Numbers a row of activations has.
    fn columns(&self) -> usize {
        self.tensor().shape().columns()
    }

    /// Bytes that one multiplication reads of the weights.
    fn weight_bytes(&self) -> usize {
        self.tensor().bytes().len()
    }

    /// Name of the kernel that was chosen, for example `avx2`.
    fn kernel(&self) -> String;

    /// What it multiplies.
    fn arithmetic(&self) -> Arithmetic;

    /// `y = x · Wᵀ` on the backend's threads: `x` is n × columns, `y` n × rows.
    ///
    /// Panics if the lengths are not the same number of rows.
    fn multiply(&self, x: &[f32], y: &mut [f32]);

    /// `y += x · W` on the backend's threads: `x` is n × rows, `y` n × columns. What a gradient at this product's
    /// results means for its activations.
    ///
    /// Panics if the lengths are not the same number of rows.
    fn add_transposed(&self, x: &[f32], y: &mut [f32]);

    /// Decodes row `index` of the weights into `out`, `columns` numbers. Panics if there is no such row.
    fn row(&self, index: usize, out: &mut [f32]) {
        self.tensor().format().decode(self.tensor().rows(index, 1), out);
    }
}

/// An instruction set and a pool of threads. Cloning shares the pool.
#[derive(Clone)]
pub struct Backend {
    isa: Isa,
    kernel: Kernel,
    pool: Arc<Pool>,
    arithmetic: Arithmetic,
}

impl Backend {
    /// A backend with a pool of its own; the calling thread counts as one of `threads`.
    ///
    /// Panics if this processor lacks `isa` ([`Isa::by_name`] reports that as an error).
    pub fn new(isa: Isa, threads: usize) -> Self {
        let kernel = Kernel::detect(isa).expect("the processor has the instruction set asked for");
        Self { isa, kernel, pool: Arc::new(Pool::new(threads)), arithmetic: Arithmetic::Float }
    }

    /// The same with other products.
    #[must_use]
    pub fn with(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
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

    /// The inner loops of the instruction set in use.
    pub(crate) fn operations(&self) -> &'static Operations {
        self.kernel.operations()
    }

    /// Prepares a matrix: chooses its kernel, and keeps the tensor. With [`Arithmetic::Integer`] its bytes are repacked
    /// into memory of their own, as many again.
    ///
    /// # Errors
    /// [`Error::NotMatrix`] unless the tensor has two dimensions.
    pub fn load(&self, tensor: &Tensor) -> Result<Box<dyn Matrix>, Error> {
        if tensor.shape().dimensions().len() != 2 {
            return Err(Error::NotMatrix { shape: *tensor.shape() });
        }
        if self.arithmetic == Arithmetic::Integer {
            if let Some(panels) = Panels::new(self, self.kernel, tensor) {
                return Ok(Box::new(panels));
            }
            if let Some(numbers) = Numbers::new(self, tensor) {
                return Ok(Box::new(numbers));
            }
        }
        Ok(Box::new(Stored::new(self, tensor)))
    }
}

/// Name of the kernel that a backend chooses for matrices of `format`.
pub fn kernel(backend: &Backend, format: FormatRef) -> String {
    let block = format.block();
    let shape = Shape::new(&[1, block.elements]).expect("a block is a row");
    let tensor = Tensor::new(shape, format, Bytes::from(vec![0; block.bytes])).expect("one block");
    backend.load(&tensor).expect("a matrix").kernel()
}
