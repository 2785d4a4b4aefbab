//! GPTQ with the blocks and stored scales of a format.
//!
//! ```text
//! x: input of the layer;  λ: damping;  d, dmin: scale of a block and scale of its minima
//! A: strictly upper triangular;  all columns are in rounding order (`act_order`)
//! H = Σ x xᵀ + λI = (A + I) diag(w) (A + I)ᵀ
//! for each row t (the target), updated ← t:
//!     for each block, in order:
//!         fit the block's d (and dmin) to its updated columns, weighted by w
//!         for each group, in order:
//!             fit the group's integer scale (and min) to its updated columns, weighted by w
//!             for each column c, in order:
//!                 q_c ← round(updated_c);  e ← t_c − q_c
//!                 updated_k ← updated_k + e · A[c][k] for every later column k
//! ```
//!
//! Source: Frantar et al., GPTQ, arXiv 2210.17323, in the equivalent form of Chee et al., QuIP, arXiv 2307.13304,
//! section 3.1 (LDLQ). This form needs no inverse of H. The scales of a block or group are fitted immediately before
//! its first column is rounded. At that time, its columns already contain the feedback of the errors of all earlier
//! blocks and groups.

use super::act_order::ActOrder;
use kvant_core::{Codes, FormatRef, Grid, Part};
use kvant_kernels::Backend;
use kvant_kernels::dense::{self, View};

/// Rounds the rows of `target` (rows × columns). Returns one [`Codes`] for each block, row by row; the blocks and their
/// codes have the storage order.
pub fn round_rows(
    backend: &Backend,
    grid: &dyn Grid,
    format: FormatRef,
    order: &ActOrder,
    target: &[f32],
) -> Vec<Codes> {
    let block = format.block();
    let n = order.columns.len();
    let (rows, blocks) = (target.len() / n, n / block.elements);
    let mut codes = vec![Codes::new(block); rows * blocks];
    let mut updated: Vec<f32> = Vec::with_capacity(target.len());
    target.chunks_exact(n).for_each(|row| updated.extend(order.columns.iter().map(|&c| row[c])));
    let mut errors = vec![0.0f32; rows * block.group];
    let (mut x, mut w) = (vec![0.0f32; block.elements], vec![0.0f32; block.elements]);
    for first in (0..n).step_by(block.elements) {
        let positions = first..first + block.elements;
        let start = order.columns[first] / block.elements * block.elements;
        for p in positions.clone() {
            w[order.columns[p] - start] = order.weights[p];
        }
        let index = start / block.elements;
        for (row, updated) in updated.chunks_exact(n).enumerate() {
            positions.clone().for_each(|p| x[order.columns[p] - start] = updated[p]);
            grid.fit(&x, Some(&w), Part::Block, &mut codes[row * blocks + index]);
        }
        for first in positions.step_by(block.group) {
            let group = (order.columns[first] - start) / block.group;
            let offset = start + group * block.group;
            let (x, w) = (&mut x[..block.group], &w[group * block.group..][..block.group]);
            for (row, updated) in updated.chunks_exact_mut(n).enumerate() {
                let codes = &mut codes[row * blocks + index];
                for p in first..first + block.group {
                    x[order.columns[p] - offset] = updated[p];
                }
                if blocks_have_groups(block) {
                    grid.fit(x, Some(w), Part::Group(group), codes);
                }
                let target = &target[row * n..];
                let errors = &mut errors[row * block.group..][..block.group];
                for (i, p) in (first..first + block.group).enumerate() {
                    let column = order.columns[p];
                    errors[i] = target[column] - grid.round(codes, column - start, updated[p]);
                    let feedback = &order.feedback[p * n..][p + 1..first + block.group];
                    for (updated, a) in updated[p + 1..].iter_mut().zip(feedback) {
                        *updated += errors[i] * a;
                    }
                }
            }
            let later = first + block.group;
            if later < n {
                let feedback = View::new(&order.feedback[first * n + later..], block.group, n - later, n);
                dense::add_few(backend, &mut updated[later..], n, &errors, feedback);
            }
        }
    }
    codes
}

/// Returns true if each group has its own scale, in addition to the block's scale.
fn blocks_have_groups(block: kvant_core::Block) -> bool {
    block.group < block.elements
}
