//! The processor as the rest of the program sees it: threads, an instruction set, and matrices ready to multiply.

use crate::cpu::{FEW, Kernel, Numbers, Operations, Panels, Stored, multiply_few};
use crate::{Error, Input, Isa, Pool};
use kvant_core::{Bytes, FormatRef, Shape, Tensor};
use std::sync::Arc;

/// What products multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Numbers: weights are decoded, activations stay as they are.
    #[default]
    Float,
    /// Integers: weights' codes as they are, activations rounded to a precision. Weights without integer codes are
    /// multiplied as numbers.
    Integer(Precision),
}

/// To what activations are rounded before integers meet them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Eight bits, 32 numbers under one scale: as llama.cpp does.
    Int8,
    /// The same, but a row's outliers, those larger than 2.5 times its mean size, stay as they are.
    #[default]
    Int8Outliers,
    /// Two rows of eight bits, the second of what the first one lost.
    Int16,
}

impl Precision {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Outliers, Self::Int16];
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
    fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.apply(&Input::new(x, self.columns()), y);
    }

    /// The same of an input that other matrices read, too.
    fn apply(&self, x: &Input, y: &mut [f32]);

    /// The matrix, where it has panels of integers.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "for this crate alone: see `apply_all`")]
    fn panels(&self) -> Option<&Panels> {
        None
    }

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

/// [`Matrix::apply`] of several matrices of one backend that read the same input. One token's products are one parallel run.
pub fn apply_all<const N: usize>(matrices: [&dyn Matrix; N], x: &Input, mut results: [&mut [f32]; N]) {
    let panels: Vec<&Panels> = matrices.iter().filter_map(|matrix| matrix.panels()).collect();
    if x.rows() > FEW || panels.len() < N || N == 0 {
        matrices.iter().zip(results).for_each(|(matrix, result)| matrix.apply(x, result));
        return;
    }
    for (matrix, result) in matrices.iter().zip(&results) {
        assert_eq!(
            x.numbers().len(),
            x.rows() * matrix.columns(),
            "activations are rows of the matrix's columns"
        );
        assert_eq!(result.len(), x.rows() * matrix.rows(), "a result for every row");
    }
    multiply_few(&panels, x, &mut results);
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
        if let Arithmetic::Integer(precision) = self.arithmetic {
            if let Some(panels) = Panels::new(self, self.kernel, precision, tensor) {
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
