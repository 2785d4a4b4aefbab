//! GPTQ inside a format's own blocks.
//!
//! ```text
//! H = Σ x xᵀ + λI = (A + I) diag(w) (A + I)ᵀ       columns in order of rounding (`order`)
//! for each row t (the target), live ← t:
//!     for each block, in order:
//!         fit the block's d (and dmin) to its live columns under w
//!         for each group, in order:
//!             fit the group's integer scale (and min) to its live columns under w
//!             for each column c, in order:
//!                 q_c ← round(live_c);  e ← t_c − q_c
//!                 live_k ← live_k + e · A[c][k] for every later column k
//! ```
//!
//! Source: Frantar et al., GPTQ, arXiv 2210.17323, in the equivalent form of Chee et al., QuIP, arXiv 2307.13304,
//! section 3.1 (LDLQ), which needs no inverse of H. Scales are chosen when their block or group is reached, on what
//! earlier errors have made of its columns.

use super::act_order::ActOrder;
use kvant_core::{Codes, FormatRef, Grid, Part};
use kvant_kernels::Backend;
use kvant_kernels::dense::{self, View};

/// Rounds some rows (`target`, rows × columns): one [`Codes`] a block, row after row.
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
    let mut live: Vec<f32> = Vec::with_capacity(target.len());
    target.chunks_exact(n).for_each(|row| live.extend(order.columns.iter().map(|&c| row[c])));
    let mut errors = vec![0.0f32; rows * block.group];
    let (mut x, mut w) = (vec![0.0f32; block.elements], vec![0.0f32; block.elements]);
    for first in (0..n).step_by(block.elements) {
        let places = first..first + block.elements;
        let start = order.columns[first] / block.elements * block.elements;
        for p in places.clone() {
            w[order.columns[p] - start] = order.weights[p];
        }
        let index = start / block.elements;
        for (row, live) in live.chunks_exact(n).enumerate() {
            places.clone().for_each(|p| x[order.columns[p] - start] = live[p]);
            grid.fit(&x, Some(&w), Part::Block, &mut codes[row * blocks + index]);
        }
        for first in places.step_by(block.group) {
            let group = (order.columns[first] - start) / block.group;
            let offset = start + group * block.group;
            let (x, w) = (&mut x[..block.group], &w[group * block.group..][..block.group]);
            for (row, live) in live.chunks_exact_mut(n).enumerate() {
                let codes = &mut codes[row * blocks + index];
                for p in first..first + block.group {
                    x[order.columns[p] - offset] = live[p];
                }
                if blocks_have_groups(block) {
                    grid.fit(x, Some(w), Part::Group(group), codes);
                }
                let target = &target[row * n..];
                let errors = &mut errors[row * block.group..][..block.group];
                for (i, p) in (first..first + block.group).enumerate() {
                    let column = order.columns[p];
                    errors[i] = target[column] - grid.round(codes, column - start, live[p]);
                    let feedback = &order.feedback[p * n..][p + 1..first + block.group];
                    for (live, a) in live[p + 1..].iter_mut().zip(feedback) {
                        *live += errors[i] * a;
                    }
                }
            }
            let later = first + block.group;
            if later < n {
                let feedback = View::new(&order.feedback[first * n + later..], block.group, n - later, n);
                dense::add_few(backend, &mut live[later..], n, &errors, feedback);
            }
        }
    }
    codes
}

/// Whether a group has a scale of its own beside its block's.
fn blocks_have_groups(block: kvant_core::Block) -> bool {
    block.group < block.elements
}
