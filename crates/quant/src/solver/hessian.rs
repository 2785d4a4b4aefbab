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
//! A map whose weights lie on the format's lattice already is carried over as it is. One whose input was never seen, or whose sums cannot be factored, falls back to importance-weighted encoding
//! and is flagged.

use super::correction::Correction;
use super::descent::{Quadratic, descend};
use super::order::Order;
use super::{ImportanceWeighted, Layer, Need, Settings, Solved, Solver, by_pieces, choice, gptq};
use crate::{Error, Lattice, Statistics};
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

    fn corrects(&self) -> bool {
        self.correction
    }

    fn chooses(&self) -> bool {
        self.choose
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let Some(grid) = format.grid() else {
            return by_pieces(layer, format, &|_, x, out| format.encode(x, None, out));
        };
        let shape = *layer.weight.shape();
        let bytes = format
            .tensor_bytes(&shape)
            .map_err(|source| Error::Shape { tensor: layer.name.to_owned(), source })?;
        if let Some(bytes) = on_lattice(layer, format, bytes) {
            let mut solved = by_pieces(layer, format, &|first, _, out| {
                let start = first * shape.columns() / format.block().elements * format.block().bytes;
                out.copy_from_slice(&bytes[start..start + out.len()]);
            })?;
            solved.flags.push("lattice");
            return Ok(solved);
        }
        let usable = layer.statistics.filter(|s| s.columns == shape.columns());
        let solved = usable.and_then(|statistics| self.bytes(layer, statistics, format, grid, bytes));
        let Some(Bytewise { bytes, settings, corrected }) = solved else {
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
        solved.chosen = (self.choose && layer.selection.is_some()).then_some(settings);
        if self.correction && !corrected && settings.correction_damping.is_some() {
            solved.flags.push("uncorrected");
        }
        Ok(solved)
    }
}

/// Share of a tensor's blocks that lie on the format's lattice where the tensor counts as made for it.
const LATTICE_SHARE: f64 = 0.99;
/// Blocks that are looked at before all of them are.
const LATTICE_PROBE: usize = 64;

/// The bytes of a tensor whose weights lie on the format's own lattice already, as those of a checkpoint that was
/// trained for it do: carried over as they are, the few other blocks encoded. `None` for all other tensors.
fn on_lattice(layer: &Layer, format: FormatRef, count: usize) -> Option<Vec<u8>> {
    let lattice = Lattice::new(layer.weight.format(), format)?;
    let block = format.block();
    let columns = layer.weight.shape().columns();
    let rows = layer.weight.shape().elements() / columns;
    let decode = |first: usize, count: usize| {
        let mut x = vec![0.0f32; count * columns];
        layer.weight.format().decode(layer.weight.rows(first, count), &mut x);
        x
    };
    let probe = decode(rows / 2, LATTICE_PROBE.div_ceil(columns / block.elements).min(rows - rows / 2));
    let mut out = vec![0u8; probe.len() / block.elements * block.bytes];
    let enough = |taken: usize, all: usize| taken as f64 >= LATTICE_SHARE * all as f64;
    let taken = lattice.transplant(&probe, &mut out);
    if !enough(taken.iter().filter(|t| **t).count(), taken.len()) {
        return None;
    }
    let mut bytes = vec![0u8; count];
    let row_bytes = columns / block.elements * block.bytes;
    let refused: usize = bytes
        .par_chunks_mut(ROWS * row_bytes)
        .enumerate()
        .map(|(index, bytes)| {
            let x = decode(index * ROWS, bytes.len() / row_bytes);
            // What the lattice refuses keeps the encoder's bytes.
            format.encode(&x, layer.importance.filter(|w| w.iter().all(|&w| w > 0.0)), bytes);
            lattice.transplant(&x, bytes).iter().filter(|taken| !**taken).count()
        })
        .sum();
    let all = count / block.bytes;
    enough(all - refused, all).then_some(bytes)
}

/// What [`Hessian::bytes`] comes to.
struct Bytewise {
    bytes: Vec<u8>,
    settings: Settings,
    corrected: bool,
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
    ) -> Option<Bytewise> {
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
        let mut corrected = false;
        if self.correction
            && let Some(correction) = Correction::new(layer.backend, statistics, &settings)
        {
            correction.apply(layer.backend, &mut target, &statistics.residual);
            corrected = true;
        }
        let order = Order::new(layer.backend, statistics, format.block(), &settings)?;
        let n = statistics.columns;
        let ridge = statistics.ridge(order.damping);
        let quadratic = Quadratic { columns: n, gram: &statistics.gram, ridge };
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
        Some(Bytewise { bytes, settings, corrected })
    }
}
