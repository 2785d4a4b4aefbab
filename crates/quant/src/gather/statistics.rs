//! Statistics of the input of some linear maps on calibration text: sums of products over tokens.
//!
//! `gram` = Σ xq xqᵀ, where xq is the input in the partly quantized network. `missed` = Σ m xqᵀ, where m is the
//! difference of the float network from the quantized one for the same token ([`Missing`]). Maps that read the same
//! activation share these statistics. The sums are f32 and have a fixed order. Not here: means.

use kvant_kernels::{Backend, dense, ops};
use std::borrow::Cow;

/// The place at which the difference m of the float network from the quantized one is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No place: m is not used.
    Nothing,
    /// The input of the maps: m = xf − xq.
    Input,
    /// The residual stream after the result of the map was added: m = (rf + W xf) − (rq + W xq). Only for a map that is
    /// alone in its stage; the value is its number of rows. If the map has more columns than rows, this sum is smaller
    /// than that at the input. It also contains the earlier error of the residual stream.
    Result(usize),
}

impl Missing {
    /// The number of elements of m.
    fn rows(self, columns: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Input => columns,
            Self::Result(rows) => rows,
        }
    }
}

/// Sums over the tokens of some contexts, for one activation with `columns` elements.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Elements of the activation.
    pub columns: usize,
    /// The number of tokens in the sums.
    pub tokens: usize,
    /// Σ xq xqᵀ, columns × columns. The part above the diagonal is valid only after [`Statistics::finish`].
    pub gram: Vec<f32>,
    /// The definition of m in `missed`.
    pub missing: Missing,
    /// Σ m xqᵀ, one row of `columns` values for each element of m.
    pub missed: Vec<f32>,
}

/// The activations of one context.
pub struct Inputs<'a> {
    /// xq, the quantized network's activation: tokens × columns.
    pub quantized: &'a [f32],
    /// m, tokens × elements of m; empty for [`Missing::Nothing`].
    pub missed: &'a [f32],
    /// The weight of each token in the sums; `None` gives all tokens the same weight.
    pub weights: Option<&'a [f32]>,
}

impl Inputs<'_> {
    /// `x` with every token's row multiplied by the square root of its weight.
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

    /// The number of values of such sums.
    pub fn numbers(columns: usize, missing: Missing) -> usize {
        (columns + missing.rows(columns)) * columns
    }

    /// Multiply-adds that are needed to add `tokens` tokens.
    pub fn multiply_adds(&self, tokens: usize) -> f64 {
        let triangle = self.columns * (self.columns + 1) / 2;
        tokens as f64 * (triangle + self.missed.len()) as f64
    }

    /// Adds the tokens of a context.
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

    /// Returns Σ m xqᵀ for some rows of a map, where m is the difference of the rows' results. `weights` holds the
    /// rows' weights, `rows` their indices.
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

    /// Copies the lower triangle of the Gram matrix to the upper one. [`Statistics::add`] sums only the lower triangle.
    pub fn finish(&mut self) {
        let n = self.columns;
        for i in 0..n {
            for j in i + 1..n {
                self.gram[i * n + j] = self.gram[j * n + i];
            }
        }
    }

    /// Adds the sums of `other`. The token counts are added too.
    pub fn merge(&mut self, other: &Self) {
        let add = |sum: &mut [f32], more: &[f32]| sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        self.tokens += other.tokens;
        add(&mut self.gram, &other.gram);
        add(&mut self.missed, &other.missed);
    }

    /// The mean square of each column of xq.
    pub fn mean_squares(&self) -> Vec<f32> {
        let tokens = self.tokens.max(1) as f32;
        self.diagonal().map(|sum| sum / tokens).collect()
    }

    /// The mean of the Gram matrix's diagonal.
    pub fn mean_diagonal(&self) -> f64 {
        self.diagonal().map(f64::from).sum::<f64>() / self.columns.max(1) as f64
    }

    /// The value that damping adds to the diagonal: the share `damping` of the diagonal's mean.
    pub fn ridge(&self, damping: f32) -> f32 {
        (f64::from(damping) * self.mean_diagonal()) as f32
    }

    fn diagonal(&self) -> impl Iterator<Item = f32> {
        (0..self.columns).map(|i| self.gram[i * self.columns + i])
    }
}
