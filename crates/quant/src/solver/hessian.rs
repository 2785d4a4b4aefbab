//! Solvers that see how columns go together: `gptq`, `descent`, `corrected` and `auto` are one path with steps left
//! out.
//!
//! ```text
//! target ← W, or W corrected                     (`correction`)
//! for some rows at a time, in parallel:
//!     codes ← GPTQ in the container              (`gptq`)
//!     codes ← coordinate descent                 (`descent`)
//!     bytes ← pack(codes)
//! ```
//!
//! A map whose input was never seen, or whose sums cannot be factored, falls back to importance-weighted encoding
//! and is flagged.

use super::correction::Correction;
use super::descent::{Quadratic, descend};
use super::order::Order;
use super::{ImportanceWeighted, Layer, Need, Settings, Solved, Solver, by_pieces, choice, gptq};
use crate::{Error, Statistics};
use kvant_core::{Bytes, FormatRef, Grid, Tensor};
use rayon::prelude::*;

/// Rows that go through the steps together.
const ROWS: usize = 64;

/// A method with its steps.
pub struct Hessian {
    /// What `--method` takes.
    pub name: &'static str,
    /// Whether coordinate descent follows.
    pub descent: bool,
    /// Whether the target makes up for earlier losses.
    pub correction: bool,
    /// Whether dampings are chosen on selection text.
    pub choose: bool,
}

impl Solver for Hessian {
    fn name(&self) -> &'static str {
        self.name
    }

    fn need(&self) -> Need {
        Need::Hessian
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let Some(grid) = format.grid() else {
            return by_pieces(layer, format, &|_, x, out| format.encode(x, None, out));
        };
        let shape = *layer.weight.shape();
        let bytes = format
            .tensor_bytes(&shape)
            .map_err(|source| Error::Shape { tensor: layer.name.to_owned(), source })?;
        let usable = layer.statistics.filter(|s| s.columns == shape.columns());
        let solved = usable.and_then(|statistics| self.bytes(layer, statistics, format, grid, bytes));
        let Some((bytes, settings)) = solved else {
            let mut solved = ImportanceWeighted.solve(layer, format)?;
            if !solved.flags.contains(&"uncalibrated") {
                solved.flags.push("uncalibrated");
            }
            return Ok(solved);
        };
        let bytes = Tensor::new(shape, format, Bytes::from(bytes))
            .map_err(|source| Error::Shape { tensor: layer.name.to_owned(), source })?;
        let mut solved = by_pieces(layer, format, &|first, x, out| {
            out.copy_from_slice(bytes.rows(first, x.len() / shape.columns()));
        })?;
        solved.chosen = self.choose.then_some(settings);
        Ok(solved)
    }
}

impl Hessian {
    /// All bytes of the solved tensor, or `None` where the statistics don't serve.
    fn bytes(
        &self,
        layer: &Layer,
        statistics: &Statistics,
        format: FormatRef,
        grid: &dyn Grid,
        count: usize,
    ) -> Option<(Vec<u8>, Settings)> {
        let mut target = layer.weight.decode();
        if target.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let (mut settings, mut merged) = (layer.settings, None);
        if let Some(selection) = layer.selection {
            if self.choose {
                settings = choice::choose(layer, statistics, selection, format, &target);
            }
            // What was kept out to choose by comes back for the final run.
            let mut all = statistics.clone();
            all.merge(selection);
            merged = Some(all);
        }
        let statistics = merged.as_ref().unwrap_or(statistics);
        let order = Order::new(layer.backend, statistics, format.block(), &settings)?;
        if self.correction
            && let Some(correction) = Correction::new(layer.backend, statistics, &settings)
        {
            correction.apply(layer.backend, &mut target, &statistics.residual);
        }
        let n = statistics.columns;
        let ridge = statistics.ridge(settings.damping, settings.diagonal);
        let quadratic = Quadratic { columns: n, gram: &statistics.gram, ridge: &ridge };
        let mut bytes = vec![0u8; count];
        let row_bytes = n / format.block().elements * format.block().bytes;
        bytes.par_chunks_mut(ROWS * row_bytes).zip(target.par_chunks(ROWS * n)).for_each(
            |(bytes, target)| {
                let mut codes = gptq::round_rows(grid, format, &order, target);
                if self.descent {
                    descend(grid, format, quadratic, target, &mut codes, settings.sweeps);
                }
                for (block, codes) in bytes.chunks_exact_mut(format.block().bytes).zip(&codes) {
                    grid.pack(codes, block);
                }
            },
        );
        Some((bytes, settings))
    }
}
