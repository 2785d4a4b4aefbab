//! Factors a symmetric matrix M = U diag(d) Uᵀ, where U is unit upper triangular. U gives the feedback of the error at
//! one position to the later positions.

use kvant_kernels::{Backend, dense};

/// The factors U and d of an n × n matrix.
pub struct UnitUpper {
    /// U without its unit diagonal, n × n. It is zero on and below the diagonal.
    pub feedback: Vec<f32>,
    /// The diagonal d, n values.
    pub weights: Vec<f32>,
}

impl UnitUpper {
    /// Factors the symmetric n × n matrix that has the entries `entry(i, j)` plus `ridge` on its diagonal. Only entries
    /// with i ≤ j are read. Returns `None` if the matrix is not positive definite.
    pub fn new(backend: &Backend, n: usize, ridge: f64, entry: impl Fn(usize, usize) -> f64) -> Option<Self> {
        // Rows and columns are in reversed order, so that the lower Cholesky factor becomes an upper triangular factor.
        let mut lower = vec![0.0f64; n * n];
        for (i, row) in lower.chunks_exact_mut(n).enumerate() {
            for (j, x) in row[..=i].iter_mut().enumerate() {
                *x = entry(n - 1 - i, n - 1 - j);
            }
            row[i] += ridge;
        }
        if !dense::cholesky(backend, &mut lower, n) {
            return None;
        }
        let upper = |i: usize, j: usize| lower[(n - 1 - i) * n + (n - 1 - j)];
        let mut feedback = vec![0.0f32; n * n];
        for (i, row) in feedback.chunks_exact_mut(n).enumerate() {
            for (j, x) in row.iter_mut().enumerate().skip(i + 1) {
                *x = (upper(i, j) / upper(j, j)) as f32;
            }
        }
        Some(Self { feedback, weights: (0..n).map(|j| (upper(j, j) * upper(j, j)) as f32).collect() })
    }
}
