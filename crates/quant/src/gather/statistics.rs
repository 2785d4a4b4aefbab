//! Statistics of the input of some linear layers (maps) on calibration text: sums of products over tokens.
//!
//! `gram` = Σ xq xqᵀ is the Gram matrix, where xq is the maps' input for one token in the partly quantized network.
//! `missed` = Σ m xqᵀ, where m is the value in the float network minus the value in the quantized network for the same
//! token. [`Missing`] defines the place of this value. Maps that read the same input share these statistics. The sums
//! are f32 and have a fixed order. The means of the inputs are not subtracted.

use kvant_kernels::{Backend, dense, ops};
use kvant_model::Stage;
use std::borrow::Cow;

/// The place at which m, the difference between float network and quantized network, is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No place: m is not used.
    Nothing,
    /// The input of the maps: m = xf − xq, where xf is the input in the float network.
    Input,
    /// The residual stream after the map's result was added: m = (rf + W xf) − (rq + W xq). W is the map's float
    /// weight; rf and rq are the residual streams before the addition in the float network and in the quantized
    /// network. The value is the number of rows of the map. No other map may read the same input. If the map has more
    /// columns than rows, `missed` has fewer values than with [`Missing::Input`]. m also contains the earlier error of
    /// the residual stream.
    Result(usize),
}

impl Missing {
    /// Returns the number of elements of m for maps with `columns` input columns.
    fn rows(self, columns: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Input => columns,
            Self::Result(rows) => rows,
        }
    }
}

/// Returns the place of m in the sums of experts. The float network and the quantized network can use other experts for
/// a token, so that the inputs of the second maps of experts cannot be compared.
pub fn missing_of_experts(stage: &Stage) -> Missing {
    if stage.rows_per_token == 1 { Missing::Input } else { Missing::Nothing }
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
    /// The definition of m in the sum `missed`.
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
    /// Returns `x` with every token's row multiplied by the square root of the token's weight.
    fn weighted<'b>(&self, backend: &Backend, x: &'b [f32]) -> Cow<'b, [f32]> {
        let Some(weights) = self.weights else { return Cow::Borrowed(x) };
        let roots: Vec<f32> = weights.iter().map(|weight| weight.sqrt()).collect();
        let mut weighted = vec![0.0; x.len()];
        ops::scale_rows(backend, x, &roots, &mut weighted);
        Cow::Owned(weighted)
    }
}

impl Statistics {
    /// Creates empty sums.
    pub fn new(columns: usize, missing: Missing) -> Self {
        let missed = vec![0.0; missing.rows(columns) * columns];
        Self { columns, tokens: 0, gram: vec![0.0; columns * columns], missing, missed }
    }

    /// Returns the number of values in the sums `gram` and `missed`.
    pub fn numbers(columns: usize, missing: Missing) -> usize {
        (columns + missing.rows(columns)) * columns
    }

    /// Returns the number of multiply-adds that adding `tokens` tokens takes.
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

    /// Returns Σ m xqᵀ for some rows of a map, rows × columns. Here m is the difference between the results of these
    /// rows in the float network and in the quantized network. `weights` holds the weights of the rows, rows × columns.
    /// `rows` gives the indices of the rows.
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

    /// Copies the lower triangle of the Gram matrix to the upper triangle. [`Statistics::add`] sums only the
    /// lower triangle.
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

    /// Returns the mean square of each column of xq.
    pub fn mean_squares(&self) -> Vec<f32> {
        let tokens = self.tokens.max(1) as f32;
        self.diagonal().map(|sum| sum / tokens).collect()
    }

    /// Returns the mean of the Gram matrix's diagonal.
    pub fn mean_diagonal(&self) -> f64 {
        self.diagonal().map(f64::from).sum::<f64>() / self.columns.max(1) as f64
    }

    /// Returns the value that damping adds to each diagonal element of the Gram matrix: `damping` times the mean of the
    /// diagonal.
    pub fn ridge(&self, damping: f32) -> f32 {
        (f64::from(damping) * self.mean_diagonal()) as f32
    }

    fn diagonal(&self) -> impl Iterator<Item = f32> {
        (0..self.columns).map(|i| self.gram[i * self.columns + i])
    }
}
