//! Each block on its own, errors weighted by how large the column's input is: llama.cpp's search with an importance
//! matrix, and what [`super::diagonal_als`] finds from there.
//!
//! ```text
//! w_j ← mean square of input column j      (1 where the map has none)
//! for each piece of whole rows: bytes ← encode(x, w)
//!     where groups' scales are stored under a block's: bytes ← refine(bytes)     never a larger Σ w_j (v_j − x_j)² than encode's
//! ```
//!
//! Source: llama.cpp's `src/llama-quant.cpp` and `quantize_row_*_impl`. A map without data is
//! encoded as if all columns counted alike. Columns that were always zero count nothing, as upstream has it: a block of
//! nothing else may come out as zeros. Both are flagged.

use super::diagonal_als;
use super::encoding::by_pieces;
use super::solver::{Layer, Need, Solved, Solver};
use crate::Error;
use kvant_core::FormatRef;

const UNCALIBRATED: &str = "uncalibrated";

/// What is special about columns of such mean squares, as far as errors are to be weighed by them.
pub fn flags(importance: Option<&[f32]>) -> Vec<&'static str> {
    let usable = |x: &&[f32]| x.iter().all(|x| x.is_finite()) && x.iter().any(|&x| x > 0.0);
    match importance.filter(usable) {
        None => vec![UNCALIBRATED],
        Some(importance) if importance.contains(&0.0) => vec!["dead-columns"],
        Some(_) => Vec::new(),
    }
}

/// `imatrix`.
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
            return by_pieces(layer, format, &|_, x, out| format.encode(x, None, out));
        };
        let flags = flags(layer.importance);
        let Some(importance) = layer.importance.filter(|_| !flags.contains(&UNCALIBRATED)) else {
            let solved = by_pieces(layer, format, &|_, x, out| format.encode(x, None, out))?;
            return Ok(Solved { flags, ..solved });
        };
        // A single scale has its least squares from the search; what is stored as a product of two has not.
        let stored_twice = format.block().group < format.block().elements;
        let solved = by_pieces(layer, format, &|_, x, out| {
            format.encode(x, Some(importance), out);
            if stored_twice {
                diagonal_als::refine(format, grid, x, importance, out);
            }
        })?;
        Ok(Solved { flags, ..solved })
    }
}
