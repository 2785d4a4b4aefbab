//! Row feedback: later rows compensate for the effect of earlier rows' errors on the network's output.
//!
//! ```text
//! W*: target;  Q: stored values;  e = Q − W*, one row for each row of the linear layer (map)
//! G: Gram matrix of the input;  g: gradients at the map's result;  λ: damping;  ‖y‖²_G = y G yᵀ
//! minimize tr(S e G eᵀ);   S = Σ g gᵀ + λI = U diag(d) Uᵀ, U unit upper triangular
//!        = Σ d_i ‖(Uᵀ e)_i‖²_G,   (Uᵀ e)_i = e_i + Σ_{j<i} U_ji e_j, rows in the order in which they are solved
//! for each panel P of rows; E are all rows of earlier panels; U_EP has the rows E and the columns P of U:
//!     a ← the offsets of the rows P that compensate best for the errors e_E of the rows E,
//!         under the assumption that the rows P and all later rows can have any value: (U_PP)ᵀ a = −(U_EP)ᵀ e_E
//!     solve the rows of P for the targets w* + a, where w* are the rows P of W*
//! ```
//!
//! GPTQ gives the same feedback among columns, with the Gram matrix G. Among rows, the sensitivity of the network's
//! output (`sensitivity`) gives the matrix S. Source: Tseng et al., Model-Preserving Adaptive Rounding (YAQA), arXiv
//! 2505.22988, section 4.
//!
//! A panel is a set of [`PANEL`] rows. The rows of one panel get no feedback from each other, so that threads solve
//! them in parallel. Neighbouring rows, above all the rows of one head, compensate best for each other. Therefore the
//! rows of a panel are far apart, and neighbours are in different panels. The pieces of a map with many rows are
//! independent. Not covered here: a second round, in which the first rows would compensate for the errors of the last
//! rows.

use super::factor::UnitUpper;
use crate::gather::{PIECE, Sensitivity};
use kvant_kernels::Backend;
use kvant_kernels::dense::{self, View};
use rayon::prelude::*;

/// Number of rows of a panel. The actual number may be smaller.
const PANEL: usize = 32;
/// Number of rows of a panel that one thread solves together. One value of each of these rows fills a vector register.
const ROWS: usize = 8;
/// λ as a share of the mean of the diagonal of Σ g gᵀ. The share is large, because this sum comes from few contexts.
const DAMPING: f64 = 0.5;

/// A function that solves some rows. It takes the targets of the rows, writes their bytes and returns their stored
/// values.
pub type Solve<'a> = &'a (dyn Fn(&[f32], &mut [u8]) -> Vec<f32> + Sync);

/// Returns the row indices of each panel, for a piece of `rows` rows.
fn panels(rows: usize) -> Vec<Vec<usize>> {
    let count = rows.div_ceil(PANEL);
    (0..count).map(|first| (first..rows).step_by(count).collect()).collect()
}

/// The factor U of one piece of rows, and the piece's panels.
struct Factor {
    /// The row indices of each panel, inside the piece.
    panels: Vec<Vec<usize>>,
    /// U without its unit diagonal, rows × rows. Rows and columns are in the order of the panels. An error e at
    /// position j moves the target at position i by −e · U[j][i].
    feedback: Vec<f32>,
}

impl Factor {
    /// Factors S = Σ g gᵀ + λI. `triangle` is the lower triangle of Σ g gᵀ. Returns `None` if S is not positive
    /// definite.
    fn new(backend: &Backend, triangle: &[f32], rows: usize) -> Option<Self> {
        let panels = panels(rows);
        let order: Vec<usize> = panels.iter().flatten().copied().collect();
        let at = |i: usize, j: usize| {
            let (i, j) = (order[i].max(order[j]), order[i].min(order[j]));
            f64::from(triangle[i * (i + 1) / 2 + j])
        };
        let ridge = DAMPING * (0..rows).map(|i| at(i, i)).sum::<f64>() / rows as f64;
        if !(ridge > 0.0 && ridge.is_finite()) {
            return None;
        }
        Some(Self { panels, feedback: UnitUpper::new(backend, rows, ridge, at)?.feedback })
    }

    /// Solves (U_PP)ᵀ a = b in place by forward substitution, for the panel that starts at position `first`. `offsets`
    /// holds b before the call and a afterwards, panel rows × columns.
    fn substitute(&self, first: usize, columns: usize, offsets: &mut [f32]) {
        let rows = self.feedback.len().isqrt();
        for i in 1..offsets.len() / columns {
            let (before, own) = offsets.split_at_mut(i * columns);
            for (k, before) in before.chunks_exact(columns).enumerate() {
                let feedback = self.feedback[(first + k) * rows + first + i];
                own[..columns].iter_mut().zip(before).for_each(|(own, before)| *own -= feedback * before);
            }
        }
    }

    /// Solves all rows of the piece, one panel after the other.
    fn solve(&self, columns: usize, target: &[f32], bytes: &mut [u8], solve_rows: Solve) {
        let rows = target.len() / columns;
        let row_bytes = bytes.len() / rows;
        let mut errors = vec![0.0f32; target.len()];
        let mut first = 0;
        for panel in &self.panels {
            let count = panel.len();
            let (earlier, errors) = errors.split_at_mut(first * columns);
            // `errors` holds the offsets a of the panel's rows until the rows are solved. Afterwards it holds the rows'
            // errors.
            let errors = &mut errors[..count * columns];
            if first > 0 {
                let feedback = View::new(&self.feedback[first..], first, count, rows).transposed();
                let earlier = View::new(earlier, first, columns, columns);
                dense::product(errors, columns, 0.0, -1.0, feedback, earlier);
                self.substitute(first, columns, errors);
            }
            let mut solved = vec![0u8; count * row_bytes];
            let parts = panel.par_chunks(ROWS).zip(solved.par_chunks_mut(ROWS * row_bytes));
            parts.zip(errors.par_chunks_mut(ROWS * columns)).for_each(|((panel, bytes), errors)| {
                let targets = || panel.iter().flat_map(|row| &target[row * columns..][..columns]);
                let moved: Vec<f32> =
                    targets().zip(&*errors).map(|(target, offset)| target + offset).collect();
                let values = solve_rows(&moved, bytes);
                errors
                    .iter_mut()
                    .zip(values)
                    .zip(targets())
                    .for_each(|((e, value), target)| *e = value - target);
            });
            for (row, solved) in panel.iter().zip(solved.chunks_exact(row_bytes)) {
                bytes[row * row_bytes..][..row_bytes].copy_from_slice(solved);
            }
            first += count;
        }
    }
}

/// Solves the rows of a map from row `start` on. `start` is a multiple of [`PIECE`]. `target` holds whole pieces; only
/// the last piece of the map may be shorter. Returns false if one of the matrices S cannot be factored; then no byte is
/// written.
pub fn solve(
    backend: &Backend,
    sensitivity: &Sensitivity,
    start: usize,
    columns: usize,
    target: &[f32],
    bytes: &mut [u8],
    solve_rows: Solve,
) -> bool {
    let rows = target.len() / columns;
    let row_bytes = bytes.len() / rows;
    let triangles = sensitivity.pieces[start / PIECE..].iter().zip((0..rows).step_by(PIECE));
    let factors = triangles.map(|(triangle, at)| Factor::new(backend, triangle, PIECE.min(rows - at)));
    let Some(factors) = factors.collect::<Option<Vec<Factor>>>() else { return false };
    let pieces = target.par_chunks(PIECE * columns).zip(bytes.par_chunks_mut(PIECE * row_bytes));
    pieces
        .zip(&factors)
        .for_each(|((target, bytes), factor)| factor.solve(columns, target, bytes, solve_rows));
    true
}
