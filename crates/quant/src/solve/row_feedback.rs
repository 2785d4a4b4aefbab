//! Errors of rows weighed against each other: later rows make up for what earlier ones did to the answer.
//!
//! ```text
//! minimize tr(S e G eᵀ), e = Q − W*;   S = Σ g gᵀ + λI = U diag(d) Uᵀ, U unit upper, rows in order
//!        = Σ d_i ‖(Uᵀ e)_i‖²_G,   (Uᵀ e)_i = e_i + Σ_{j<i} U_ji e_j
//! for some rows P at a time, E what comes before them:
//!     a ← what would answer E best, if these rows and all later ones could be anything:  Uᵀ_PP a = −Uᵀ_EP e
//!     solve these rows for the targets w* + a
//! ```
//!
//! What GPTQ does among columns, done among rows by how the network's answer minds them (`sensitivity`). Source:
//! Tseng et al., Model-Preserving Adaptive Rounding (YAQA), arXiv 2505.22988, section 4. Rows that are solved together
//! ([`PANEL`]) are not fed with each other's errors, so that threads have something to share; they are far apart, for
//! neighbours, those of one head above all, have most to make up for each other. Pieces of a wide map know nothing of
//! each other. Left out: a second round, in which the first rows would hear of the last ones' errors.

use super::factor::UnitUpper;
use crate::gather::{PIECE, Sensitivity};
use kvant_kernels::Backend;
use kvant_kernels::dense::{self, View};
use rayon::prelude::*;

/// Rows that are solved together.
const PANEL: usize = 32;
/// Rows of a panel that one thread takes: a vector of them.
const ROWS: usize = 8;
/// λ as a share of the mean of S's diagonal: how little is believed of what some contexts say.
const DAMPING: f64 = 0.5;

/// Solves some rows for their targets into their bytes, and returns the values that are stored.
pub type Solve<'a> = &'a (dyn Fn(&[f32], &mut [u8]) -> Vec<f32> + Sync);

/// The rows of each panel.
fn panels(rows: usize) -> Vec<Vec<usize>> {
    let count = rows.div_ceil(PANEL);
    (0..count).map(|first| (first..rows).step_by(count).collect()).collect()
}

/// U of one piece of rows.
struct Factor {
    panels: Vec<Vec<usize>>,
    /// rows × rows, both in order of the panels: an error e at place j moves the target at place i by −e · U[j][i].
    feedback: Vec<f32>,
}

impl Factor {
    /// `None` where the sums cannot be factored.
    fn new(backend: &Backend, triangle: &[f32], rows: usize) -> Option<Self> {
        let panels = panels(rows);
        let places: Vec<usize> = panels.iter().flatten().copied().collect();
        let at = |i: usize, j: usize| {
            let (i, j) = (places[i].max(places[j]), places[i].min(places[j]));
            f64::from(triangle[i * (i + 1) / 2 + j])
        };
        let ridge = DAMPING * (0..rows).map(|i| at(i, i)).sum::<f64>() / rows as f64;
        if !(ridge > 0.0 && ridge.is_finite()) {
            return None;
        }
        Some(Self { panels, feedback: UnitUpper::new(backend, rows, ridge, at)?.feedback })
    }

    /// What rows of a panel from place `first` on are asked for by earlier panels, each in answer to what the others
    /// are asked for.
    fn answer(&self, first: usize, columns: usize, asked: &mut [f32]) {
        let rows = self.feedback.len().isqrt();
        for i in 1..asked.len() / columns {
            let (before, own) = asked.split_at_mut(i * columns);
            for (k, before) in before.chunks_exact(columns).enumerate() {
                let feedback = self.feedback[(first + k) * rows + first + i];
                own[..columns].iter_mut().zip(before).for_each(|(own, before)| *own -= feedback * before);
            }
        }
    }

    /// Solves all rows of the piece, panel by panel.
    fn solve(&self, columns: usize, target: &[f32], bytes: &mut [u8], solve: Solve) {
        let rows = target.len() / columns;
        let row_bytes = bytes.len() / rows;
        let mut errors = vec![0.0f32; target.len()];
        let mut first = 0;
        for panel in &self.panels {
            let count = panel.len();
            let (earlier, errors) = errors.split_at_mut(first * columns);
            // Until they are solved, their errors are those that they are asked to make.
            let errors = &mut errors[..count * columns];
            if first > 0 {
                let feedback = View::new(&self.feedback[first..], first, count, rows).transposed();
                let earlier = View::new(earlier, first, columns, columns);
                dense::product(errors, columns, 0.0, -1.0, feedback, earlier);
                self.answer(first, columns, errors);
            }
            let mut solved = vec![0u8; count * row_bytes];
            let parts = panel.par_chunks(ROWS).zip(solved.par_chunks_mut(ROWS * row_bytes));
            parts.zip(errors.par_chunks_mut(ROWS * columns)).for_each(|((panel, bytes), errors)| {
                let wanted = || panel.iter().flat_map(|row| &target[row * columns..][..columns]);
                let asked: Vec<f32> = wanted().zip(&*errors).map(|(wanted, asked)| wanted + asked).collect();
                let values = solve(&asked, bytes);
                errors
                    .iter_mut()
                    .zip(values)
                    .zip(wanted())
                    .for_each(|((e, value), wanted)| *e = value - wanted);
            });
            for (row, solved) in panel.iter().zip(solved.chunks_exact(row_bytes)) {
                bytes[row * row_bytes..][..row_bytes].copy_from_slice(solved);
            }
            first += count;
        }
    }
}

/// Solves rows from `start` on, a whole number of pieces but for the last; false, and nothing done, where the sums
/// cannot be factored.
pub fn solve(
    backend: &Backend,
    sensitivity: &Sensitivity,
    start: usize,
    columns: usize,
    target: &[f32],
    bytes: &mut [u8],
    each: Solve,
) -> bool {
    let rows = target.len() / columns;
    let row_bytes = bytes.len() / rows;
    let triangles = sensitivity.pieces[start / PIECE..].iter().zip((0..rows).step_by(PIECE));
    let factors = triangles.map(|(triangle, at)| Factor::new(backend, triangle, PIECE.min(rows - at)));
    let Some(factors) = factors.collect::<Option<Vec<Factor>>>() else { return false };
    let pieces = target.par_chunks(PIECE * columns).zip(bytes.par_chunks_mut(PIECE * row_bytes));
    pieces.zip(&factors).for_each(|((target, bytes), factor)| factor.solve(columns, target, bytes, each));
    true
}
