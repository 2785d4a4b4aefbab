//! Solvers that see how columns go together: `gptq`, `descent`, `corrected`, `coupled` and `auto` are one path with
//! steps left out.
//!
//! ```text
//! target ← W, or W corrected                     (`correction`)
//! for some rows at a time, in parallel:
//!     codes ← GPTQ in the container              (`gptq`)
//!     codes ← coordinate descent                 (`descent`)
//!     bytes ← pack(codes)
//!     later rows' targets ← less what these errors did  (`row_feedback`)
//! ```
//!
//! A map whose weights lie on the format's lattice already is carried over as it is. One whose input was never seen,
//! or whose sums cannot be factored, falls back to importance-weighted encoding and is flagged.

use super::act_order::ActOrder;
use super::correction::Correction;
use super::descent::{Quadratic, descend};
use super::encoding::by_pieces;
use super::importance_weighted::ImportanceWeighted;
use super::lattice::Lattice;
use super::solver::{Layer, Need, Settings, Solved, Solver};
use super::{damping_search, gptq, row_feedback};
use crate::Error;
use crate::gather::{Missing, Statistics};
use kvant_core::{Bytes, Codes, FormatRef, Grid, Tensor};
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
    /// Whether rows make up for each other's errors.
    pub coupling: bool,
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

    fn couples(&self) -> bool {
        self.coupling
    }

    fn chooses(&self) -> bool {
        self.choose
    }

    fn choose(&self, layer: &Layer, format: FormatRef, selection: &Statistics) -> Settings {
        let usable = layer.statistics.filter(|s| s.columns == layer.weight.shape().columns());
        match usable {
            Some(statistics) if self.choose => damping_search::choose(layer, statistics, selection, format),
            _ => layer.settings,
        }
    }

    fn carry(&self, layer: &Layer, format: FormatRef) -> Result<Option<Solved>, Error> {
        let shape = *layer.weight.shape();
        let bytes = format.tensor_bytes(&shape).map_err(|source| shape_error(layer, source))?;
        let Some(bytes) = on_lattice(layer, format, bytes) else { return Ok(None) };
        let mut solved = by_pieces(layer, format, &|first, _, out| {
            let start = first * shape.columns() / format.block().elements * format.block().bytes;
            out.copy_from_slice(&bytes[start..start + out.len()]);
        })?;
        solved.flags.push("lattice");
        Ok(Some(solved))
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let Some(grid) = format.grid() else {
            return self.numbers(layer, format);
        };
        if let Some(solved) = self.carry(layer, format)? {
            return Ok(solved);
        }
        let shape = *layer.weight.shape();
        let bytes = format.tensor_bytes(&shape).map_err(|source| shape_error(layer, source))?;
        let usable = layer.statistics.filter(|s| s.columns == shape.columns());
        let solved = usable.and_then(|statistics| self.bytes(layer, statistics, format, grid, bytes));
        let Some(Bytewise { bytes, corrected, uncoupled }) = solved else {
            let mut solved = ImportanceWeighted.solve(layer, format)?;
            if !solved.flags.contains(&"uncalibrated") {
                solved.flags.push("uncalibrated");
            }
            return Ok(solved);
        };
        let bytes =
            Tensor::new(shape, format, Bytes::from(bytes)).map_err(|source| shape_error(layer, source))?;
        let mut solved = by_pieces(layer, format, &|first, x, out| {
            out.copy_from_slice(bytes.rows(first, x.len() / shape.columns()));
        })?;
        let missing = usable.is_some_and(|s| s.missing != Missing::Nothing);
        if self.correction && !corrected && missing && layer.settings.correction_damping.is_some() {
            solved.flags.push("uncorrected");
        }
        if uncoupled {
            solved.flags.push("uncoupled");
        }
        if usable.is_some_and(|s| s.mean_squares().contains(&0.0)) {
            solved.flags.push("dead-columns");
        }
        Ok(solved)
    }
}

fn shape_error(layer: &Layer, source: kvant_core::Error) -> Error {
    Error::Shape { tensor: layer.name.to_owned(), source }
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
    corrected: bool,
    /// Whether rows were to make up for each other and could not.
    uncoupled: bool,
}

/// Rows whose targets are in memory at once.
pub const SLAB: usize = 16_384;

impl Hessian {
    /// The layer in a format without codes: such a map loses next to nothing itself, but it can make up for what
    /// earlier ones have lost.
    fn numbers(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let shape = *layer.weight.shape();
        let usable = layer.statistics.filter(|s| self.correction && s.columns == shape.columns());
        let correction = usable.and_then(|s| Correction::new(layer.backend, s, &layer.settings));
        let Some(correction) = correction else {
            return by_pieces(layer, format, &|_, x, out| format.encode(x, None, out));
        };
        let (n, rows) = (shape.columns(), shape.rows());
        let mut bytes = vec![0u8; format.tensor_bytes(&shape).map_err(|source| shape_error(layer, source))?];
        let row_bytes = bytes.len() / rows;
        for (slab, bytes) in bytes.chunks_mut(SLAB * row_bytes).enumerate() {
            let all: Vec<usize> = (slab * SLAB..rows.min((slab + 1) * SLAB)).collect();
            let mut target = vec![0.0f32; all.len() * n];
            layer.weight.format().decode(layer.weight.rows(slab * SLAB, all.len()), &mut target);
            correction.apply(layer.backend, &mut target, &all);
            format.encode(&target, None, bytes);
        }
        by_pieces(layer, format, &|first, x, out| {
            let start = first * row_bytes;
            out.copy_from_slice(&bytes[start..start + x.len() / n * row_bytes]);
        })
    }

    /// All bytes of the solved tensor, or `None` where the statistics don't serve.
    fn bytes(
        &self,
        layer: &Layer,
        statistics: &Statistics,
        format: FormatRef,
        grid: &dyn Grid,
        count: usize,
    ) -> Option<Bytewise> {
        let (n, settings) = (statistics.columns, layer.settings);
        let rows = layer.weight.shape().elements() / n;
        let row_bytes = n / format.block().elements * format.block().bytes;
        let wanted = self.correction.then(|| Correction::new(layer.backend, statistics, &settings));
        let mut correction = wanted.flatten();
        let corrected = correction.is_some();
        let (mut order, mut uncoupled) = (None, false);
        let mut bytes = vec![0u8; count];
        for (slab, bytes) in bytes.chunks_mut(SLAB * row_bytes).enumerate() {
            let (start, count) = (slab * SLAB, bytes.len() / row_bytes);
            let mut target = vec![0.0f32; count * n];
            layer.weight.format().decode(layer.weight.rows(start, count), &mut target);
            if target.iter().any(|x| !x.is_finite()) {
                return None;
            }
            if let Some(correction) = &correction {
                let rows: Vec<usize> = (start..start + count).collect();
                correction.apply(layer.backend, &mut target, &rows);
            }
            if start + count == rows {
                // A wide map has one slab, and two factors of its width would be the most that is ever in memory.
                correction = None;
            }
            if order.is_none() {
                order = Some(ActOrder::new(layer.backend, statistics, format.block(), &settings)?);
            }
            let order = order.as_ref()?;
            let ridge = statistics.ridge(order.damping);
            let quadratic = Quadratic { columns: n, gram: &statistics.gram, ridge };
            let solve = |target: &[f32], bytes: &mut [u8]| {
                let mut codes = gptq::round_rows(layer.backend, grid, format, order, target);
                if self.descent {
                    descend(layer.backend, grid, format, quadratic, target, &mut codes, settings.sweeps);
                }
                for (block, codes) in bytes.chunks_exact_mut(format.block().bytes).zip(&codes) {
                    grid.pack(codes, block);
                }
                codes
            };
            if let Some(sensitivity) = layer.sensitivity.filter(|_| self.coupling) {
                let levels = grid.levels();
                let each = |target: &[f32], bytes: &mut [u8]| -> Vec<f32> {
                    let codes = solve(target, bytes);
                    let values =
                        |c: &Codes| (0..c.codes.len()).map(|i| c.value(&levels, i)).collect::<Vec<_>>();
                    codes.iter().flat_map(values).collect()
                };
                if row_feedback::solve(layer.backend, sensitivity, start, n, &target, bytes, &each) {
                    continue;
                }
                uncoupled = true;
            }
            bytes.par_chunks_mut(ROWS * row_bytes).zip(target.par_chunks(ROWS * n)).for_each(
                |(bytes, target)| {
                    solve(target, bytes);
                },
            );
        }
        Some(Bytewise { bytes, corrected, uncoupled })
    }
}
