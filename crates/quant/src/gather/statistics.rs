//! What calibration knows of the input of some maps, and of what their results miss: sums of products over tokens.
//!
//! `gram` = Σ xq xqᵀ over the inputs that the already quantized network gives; `missed` = Σ m xqᵀ, where m is what it
//! misses beside the float network for the same tokens ([`Missing`]). Maps that read the same activation share them.
//! Sums are f32 in fixed order. Left out: means.

use kvant_kernels::{Backend, dense, ops};
use std::borrow::Cow;

/// Where the quantized network is compared with the float one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nowhere.
    Nothing,
    /// At the input: m = xf − xq.
    Input,
    /// After the one map that reads the input, which has so many rows, at the residual stream that its result is added
    /// to: m = (rf + W xf) − (rq + W xq). Less to sum than at the input of a map that is wider than high, and what
    /// the stream has lost before is in it.
    Result(usize),
}

impl Missing {
    /// Numbers of m.
    fn rows(self, columns: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Input => columns,
            Self::Result(rows) => rows,
        }
    }
}

/// Sums over the tokens of some contexts, for one activation of `columns` numbers.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Numbers of the activation.
    pub columns: usize,
    /// Tokens summed.
    pub tokens: usize,
    /// Σ xq xqᵀ, columns × columns; above the diagonal only after [`Statistics::finish`].
    pub gram: Vec<f32>,
    /// What `missed` is about.
    pub missing: Missing,
    /// Σ m xqᵀ, a row of `columns` for each number of m.
    pub missed: Vec<f32>,
}

/// The activations of one context.
pub struct Inputs<'a> {
    /// The quantized network's, tokens × columns.
    pub quantized: &'a [f32],
    /// What it misses, tokens × the numbers of m; empty where that is nothing.
    pub missed: &'a [f32],
    /// How much each token's error counts; all alike where there are none.
    pub weights: Option<&'a [f32]>,
}

impl Inputs<'_> {
    /// `x` with every token's row multiplied by the root of its weight.
    fn weighted<'b>(&self, backend: &Backend, x: &'b [f32]) -> Cow<'b, [f32]> {
        let Some(weights) = self.weights else { return Cow::Borrowed(x) };
        let roots: Vec<f32> = weights.iter().map(|weight| weight.sqrt()).collect();
        let mut weighted = vec![0.0; x.len()];
        ops::scale_rows(backend, x, &roots, &mut weighted);
        Cow::Owned(weighted)
    }
}

impl Statistics {
    /// Empty sums.
    pub fn new(columns: usize, missing: Missing) -> Self {
        let missed = vec![0.0; missing.rows(columns) * columns];
        Self { columns, tokens: 0, gram: vec![0.0; columns * columns], missing, missed }
    }

    /// Numbers that such sums hold.
    pub fn numbers(columns: usize, missing: Missing) -> usize {
        (columns + missing.rows(columns)) * columns
    }

    /// Multiply-adds that adding so many tokens takes.
    pub fn multiply_adds(&self, tokens: usize) -> f64 {
        let triangle = self.columns * (self.columns + 1) / 2;
        tokens as f64 * (triangle + self.missed.len()) as f64
    }

    /// Adds a context.
    pub fn add(&mut self, backend: &Backend, inputs: &Inputs) {
        let columns = self.columns;
        self.tokens += inputs.quantized.len() / columns;
        let quantized = inputs.weighted(backend, inputs.quantized);
        dense::add_gram(backend, &quantized, columns, &mut self.gram);
        let rows = self.missing.rows(columns);
        if rows > 0 {
            let missed = inputs.weighted(backend, inputs.missed);
            dense::add_products(backend, &missed, rows, &quantized, columns, &mut self.missed);
        }
    }

    /// Σ m xqᵀ of some rows of a map, m what their results miss. `weights` has the rows' numbers, `rows` says which
    /// they are.
    pub fn missed_by(
        &self,
        backend: &Backend,
        weights: &[f32],
        rows: impl Iterator<Item = usize>,
    ) -> Vec<f32> {
        let columns = self.columns;
        match self.missing {
            Missing::Nothing => vec![0.0; weights.len()],
            Missing::Input => {
                let mut missed = vec![0.0; weights.len()];
                dense::multiply(backend, weights, &self.missed, columns, 0.0, &mut missed);
                missed
            }
            Missing::Result(_) => {
                let mut missed = Vec::with_capacity(weights.len());
                rows.for_each(|row| missed.extend_from_slice(&self.missed[row * columns..][..columns]));
                missed
            }
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
        add(&mut self.missed, &other.missed);
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
