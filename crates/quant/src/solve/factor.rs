//! M = U diag(d) Uᵀ with a unit upper U: what an error on one place of an order means for the later ones.

use kvant_kernels::{Backend, dense};

/// U and d.
pub struct UnitUpper {
    /// U, n × n, without its ones: zero on and below the diagonal.
    pub feedback: Vec<f32>,
    /// d.
    pub weights: Vec<f32>,
}

impl UnitUpper {
    /// Of the symmetric matrix whose entry (i, j), i ≤ j, is `at(i, j)`, with `ridge` added to its diagonal; `None`
    /// where it is not positive definite.
    pub fn new(backend: &Backend, n: usize, ridge: f64, at: impl Fn(usize, usize) -> f64) -> Option<Self> {
        // Turned around, so that an upper triangle comes out.
        let mut lower = vec![0.0f64; n * n];
        for (i, row) in lower.chunks_exact_mut(n).enumerate() {
            for (j, x) in row[..=i].iter_mut().enumerate() {
                *x = at(n - 1 - i, n - 1 - j);
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
