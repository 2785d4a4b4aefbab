//! What calibration knows of the input of some maps: sums of products over tokens.
//!
//! `gram` = Σ xq xqᵀ over the inputs that the already quantized network gives; `mismatch` = Σ (xf − xq) xqᵀ with the
//! float network's inputs for the same tokens; `residual` = Σ (rf − rq) xqᵀ, what the residual stream has lost so far.
//! Maps that read the same activation share them. Sums are f32 in fixed order. Left out: means.

use kvant_kernels::{Backend, dense};
use std::borrow::Cow;

/// Sums over the tokens of some contexts, for one activation of `columns` numbers.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Numbers of the activation.
    pub columns: usize,
    /// Tokens summed.
    pub tokens: usize,
    /// Σ xq xqᵀ, columns × columns; above the diagonal only after [`Statistics::finish`].
    pub gram: Vec<f32>,
    /// Σ (xf − xq) xqᵀ, columns × columns; empty where nobody asks for it.
    pub mismatch: Vec<f32>,
    /// Σ (rf − rq) xqᵀ, hidden × columns; empty for maps that don't write to the residual stream.
    pub residual: Vec<f32>,
}

/// The activations of one context.
pub struct Inputs<'a> {
    /// The quantized network's, tokens × columns.
    pub quantized: &'a [f32],
    /// The float network's.
    pub float: &'a [f32],
    /// The residual streams of both, tokens × hidden: quantized, float.
    pub residuals: Option<(&'a [f32], &'a [f32])>,
    /// How much each token's error counts; all alike where there are none.
    pub weights: Option<&'a [f32]>,
}

impl Inputs<'_> {
    /// `x` with every token's row multiplied by the root of its weight.
    fn weighted<'b>(&self, x: Cow<'b, [f32]>) -> Cow<'b, [f32]> {
        let Some(weights) = self.weights else { return x };
        let mut x = x.into_owned();
        let columns = x.len() / weights.len();
        for (row, weight) in x.chunks_exact_mut(columns).zip(weights) {
            let root = weight.sqrt();
            row.iter_mut().for_each(|x| *x *= root);
        }
        Cow::Owned(x)
    }
}

impl Statistics {
    /// Empty sums; `mismatch` says whether the two networks' difference is wanted, `hidden` is the residual stream's
    /// width where its loss is too.
    pub fn new(columns: usize, mismatch: bool, hidden: Option<usize>) -> Self {
        Self {
            columns,
            tokens: 0,
            gram: vec![0.0; columns * columns],
            mismatch: if mismatch { vec![0.0; columns * columns] } else { Vec::new() },
            residual: hidden.filter(|_| mismatch).map_or_else(Vec::new, |hidden| vec![0.0; hidden * columns]),
        }
    }

    /// Numbers that such sums hold.
    pub fn numbers(columns: usize, mismatch: bool, hidden: Option<usize>) -> usize {
        let square = columns * columns;
        square + if mismatch { square + hidden.unwrap_or(0) * columns } else { 0 }
    }

    /// Multiply-adds that adding so many tokens takes.
    pub fn multiply_adds(&self, tokens: usize) -> f64 {
        let triangle = self.columns * (self.columns + 1) / 2;
        tokens as f64 * (triangle + self.mismatch.len() + self.residual.len()) as f64
    }

    /// Adds a context.
    pub fn add(&mut self, backend: &Backend, inputs: &Inputs) {
        let columns = self.columns;
        self.tokens += inputs.quantized.len() / columns;
        let difference =
            |a: &[f32], b: &[f32]| inputs.weighted(Cow::Owned(a.iter().zip(b).map(|(a, b)| a - b).collect()));
        let quantized = inputs.weighted(Cow::Borrowed(inputs.quantized));
        dense::add_gram(backend, &quantized, columns, &mut self.gram);
        if !self.mismatch.is_empty() {
            let missed = difference(inputs.float, inputs.quantized);
            dense::add_products(backend, &missed, columns, &quantized, columns, &mut self.mismatch);
        }
        if let (false, Some((ours, float))) = (self.residual.is_empty(), inputs.residuals) {
            let hidden = self.residual.len() / columns;
            let lost = difference(float, ours);
            dense::add_products(backend, &lost, hidden, &quantized, columns, &mut self.residual);
        }
    }

    /// Completes the Gram matrix, of which [`Statistics::add`] sums the lower triangle alone.
    pub fn finish(&mut self) {
        let n = self.columns;
        for i in 0..n {
            for j in i + 1..n {
                self.gram[i * n + j] = self.gram[j * n + i];
            }
        }
    }

    /// Adds another's sums.
    pub fn merge(&mut self, other: &Self) {
        let add = |sum: &mut [f32], more: &[f32]| sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        self.tokens += other.tokens;
        add(&mut self.gram, &other.gram);
        add(&mut self.mismatch, &other.mismatch);
        add(&mut self.residual, &other.residual);
    }

    /// Mean square of each column of the quantized network's input.
    pub fn mean_squares(&self) -> Vec<f32> {
        let tokens = self.tokens.max(1) as f32;
        self.diagonal().map(|sum| sum / tokens).collect()
    }

    /// Mean of the Gram matrix's diagonal.
    pub fn mean_diagonal(&self) -> f64 {
        self.diagonal().map(f64::from).sum::<f64>() / self.columns.max(1) as f64
    }

    /// What is added to the diagonal: a share of its mean.
    pub fn ridge(&self, damping: f32) -> f32 {
        (f64::from(damping) * self.mean_diagonal()) as f32
    }

    fn diagonal(&self) -> impl Iterator<Item = f32> {
        (0..self.columns).map(|i| self.gram[i * self.columns + i])
    }
}
