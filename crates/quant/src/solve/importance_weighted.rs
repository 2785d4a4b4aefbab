//! Encodes each block independently, with weighted errors. llama.cpp's search with an importance matrix runs first. The
//! refinement of [`super::diagonal_als`] follows.
//!
//! ```text
//! x_j: original weight of column j;  v_j: its stored value
//! w_j ← mean square of input column j      (1 if the linear layer (map) has no data)
//! for each piece of whole rows:
//!     bytes ← encode(x, w)
//!     if groups have their own scales:
//!         bytes ← refine(bytes)            (Σ w_j (v_j − x_j)² never rises)
//! ```
//!
//! Source: llama.cpp's `src/llama-quant.cpp` and `quantize_row_*_impl`. A map without data is encoded with equal
//! weights. Input columns that were always zero (dead columns) have weight 0, as in upstream. If a block has only dead
//! columns, all its stored values may become zero. Maps without data and maps with dead columns get a flag. The maps of
//! experts that are stored as one tensor have one list of mean squares for each expert.

use super::diagonal_als;
use super::encoding::by_pieces;
use super::flag::Flag;
use super::solver::{Layer, Need, Solved, Solver};
use crate::Error;
use kvant_core::FormatRef;

/// Returns the flags of a map from the mean squares of its input columns: [`Flag::Uncalibrated`] if there is no usable
/// data, [`Flag::DeadColumns`] if some columns were always zero.
pub fn flags(importance: Option<&[f32]>) -> Vec<Flag> {
    let usable = |x: &&[f32]| x.iter().all(|x| x.is_finite()) && x.iter().any(|&x| x > 0.0);
    match importance.filter(usable) {
        None => vec![Flag::Uncalibrated],
        Some(importance) if importance.contains(&0.0) => vec![Flag::DeadColumns],
        Some(_) => Vec::new(),
    }
}

/// The method `imatrix`.
pub struct ImportanceWeighted;

impl Solver for ImportanceWeighted {
    fn name(&self) -> &'static str {
        "imatrix"
    }

    fn need(&self) -> Need {
        Need::Importance
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let Some(grid) = format.grid() else {
            let encoder = layer.encoder(format)?;
            return by_pieces(layer, format, &|_, x, out| encoder.encode(x, None, out));
        };
        let flags = flags(layer.importance);
        let Some(importance) = layer.importance.filter(|_| !flags.contains(&Flag::Uncalibrated)) else {
            let solved = by_pieces(layer, format, &|_, x, out| grid.encode(x, None, out))?;
            return Ok(Solved { flags, ..solved });
        };
        // The encoder's search finds the least-squares scale of a block that has only one scale, so no refinement is
        // needed. If a scale is the product of two stored values, the search does not find the least-squares scale.
        let has_group_scales = format.block().group < format.block().elements;
        let columns = layer.weight.shape().columns();
        // The rows of an expert have their own importance.
        let experts = (importance.len() / columns.max(1)).max(1);
        let expert_rows = (layer.weight.shape().rows() / experts).max(1);
        let solved = by_pieces(layer, format, &|first, x, out| {
            let (rows, row_bytes) = (x.len() / columns, out.len() / (x.len() / columns));
            let mut row = 0;
            while row < rows {
                let expert = (first + row) / expert_rows;
                let end = rows.min((expert + 1) * expert_rows - first);
                let importance = &importance[expert * columns..][..columns];
                let (x, out) = (&x[row * columns..end * columns], &mut out[row * row_bytes..end * row_bytes]);
                grid.encode(x, Some(importance), out);
                if has_group_scales {
                    diagonal_als::refine(format, grid, x, importance, out);
                }
                row = end;
            }
        })?;
        Ok(Solved { flags, ..solved })
    }
}
