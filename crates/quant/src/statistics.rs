//! What calibration knows of the input of some maps: sums of products over tokens.
//!
//! `gram` = Σ xq xqᵀ over the inputs that the already quantized network gives; `cross` = Σ xf xqᵀ with the float
//! network's inputs for the same tokens; `residual` = Σ (rf − rq) xqᵀ, what the residual stream has lost so far.
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
    /// Σ xf xqᵀ, columns × columns; empty where nobody asks for it.
    pub cross: Vec<f32>,
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
    fn weighted<'b>(&self, x: &'b [f32]) -> Cow<'b, [f32]> {
        let Some(weights) = self.weights else { return Cow::Borrowed(x) };
        let mut x = x.to_vec();
        let columns = x.len() / weights.len();
        for (row, weight) in x.chunks_exact_mut(columns).zip(weights) {
            let root = weight.sqrt();
            row.iter_mut().for_each(|x| *x *= root);
        }
        Cow::Owned(x)
    }
}

impl Statistics {
    /// Empty sums; `hidden` is the residual stream's width where its loss is wanted.
    pub fn new(columns: usize, cross: bool, hidden: Option<usize>) -> Self {
        Self {
            columns,
            tokens: 0,
            gram: vec![0.0; columns * columns],
            cross: if cross { vec![0.0; columns * columns] } else { Vec::new() },
            residual: hidden.filter(|_| cross).map_or_else(Vec::new, |hidden| vec![0.0; hidden * columns]),
        }
    }

    /// Adds a context.
    pub fn add(&mut self, backend: &Backend, inputs: &Inputs) {
        let columns = self.columns;
        self.tokens += inputs.quantized.len() / columns;
        let quantized = inputs.weighted(inputs.quantized);
        dense::add_gram(backend, &quantized, columns, &mut self.gram);
        if !self.cross.is_empty() {
            dense::add_products(
                backend,
                &inputs.weighted(inputs.float),
                columns,
                &quantized,
                columns,
                &mut self.cross,
            );
        }
        if let (false, Some((ours, float))) = (self.residual.is_empty(), inputs.residuals) {
            let lost: Vec<f32> = float.iter().zip(ours).map(|(f, q)| f - q).collect();
            let hidden = self.residual.len() / columns;
            let lost = inputs.weighted(&lost);
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
        add(&mut self.cross, &other.cross);
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
