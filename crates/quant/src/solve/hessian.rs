//! The methods that use the Gram matrix of the input: `gptq`, `descent`, `corrected`, `coupled` and `auto`. They run
//! the same steps in the same order. The simpler methods skip some of the steps.
//!
//! ```text
//! target ← the weights W, or the corrected weights          (`correction`)
//! for some rows at a time, in parallel:
//!     codes ← GPTQ with the format's scales                 (`gptq`)
//!     codes ← coordinate descent                            (`descent`)
//!     bytes ← pack(codes)
//!     add the feedback of these rows' errors to the targets of later rows  (`row_feedback`)
//! ```
//!
//! If the weights of a linear layer (map) are already on the format's lattice, they are carried over unchanged. If a
//! map has no calibration data, or if its Gram matrix cannot be factored, the map is encoded with importance weights
//! and gets a flag.

use super::act_order::ActOrder;
use super::correction::Correction;
use super::descent::{Quadratic, descend};
use super::encoding::by_pieces;
use super::flag::Flag;
use super::importance_weighted::ImportanceWeighted;
use super::lattice::Lattice;
use super::solver::{Layer, Need, Settings, Solved, Solver};
use super::{damping_search, gptq, row_feedback};
use crate::Error;
use crate::gather::{Missing, Statistics};
use kvant_core::{Bytes, Codes, FormatRef, Grid, Tensor};
use rayon::prelude::*;

/// Number of rows that one thread solves together.
const ROWS: usize = 64;

/// A method, described by the steps that it runs.
pub struct Hessian {
    /// The name of the method, as `--method` takes it.
    pub name: &'static str,
    /// If true, coordinate descent follows GPTQ.
    pub descent: bool,
    /// If true, the target compensates for the errors of earlier maps.
    pub correction: bool,
    /// If true, later rows compensate for the errors of earlier rows (row feedback).
    pub coupling: bool,
    /// If true, the dampings are chosen on the selection text: the part of the calibration text that is held out to
    /// choose settings.
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
        solved.flags.push(Flag::Lattice);
        Ok(Some(solved))
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let Some(grid) = format.grid() else {
            return self.solve_without_codes(layer, format);
        };
        if let Some(solved) = self.carry(layer, format)? {
            return Ok(solved);
        }
        let shape = *layer.weight.shape();
        let bytes = format.tensor_bytes(&shape).map_err(|source| shape_error(layer, source))?;
        let usable = layer.statistics.filter(|s| s.columns == shape.columns());
        let solved =
            usable.and_then(|statistics| self.solve_with_codes(layer, statistics, format, grid, bytes));
        let Some(SolvedBytes { bytes, corrected, uncoupled }) = solved else {
            let mut solved = ImportanceWeighted.solve(layer, format)?;
            if !solved.flags.contains(&Flag::Uncalibrated) {
                solved.flags.push(Flag::Uncalibrated);
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
            solved.flags.push(Flag::Uncorrected);
        }
        if uncoupled {
            solved.flags.push(Flag::Uncoupled);
        }
        if usable.is_some_and(|s| s.mean_squares().contains(&0.0)) {
            solved.flags.push(Flag::DeadColumns);
        }
        Ok(solved)
    }
}

fn shape_error(layer: &Layer, source: kvant_core::Error) -> Error {
    Error::Shape { tensor: layer.name.to_owned(), source }
}

/// Minimum share of blocks on the format's lattice, from 0 to 1. A tensor with at least this share counts as made for
/// the format.
const LATTICE_SHARE: f64 = 0.99;
/// Number of blocks that are checked first, rounded up to whole rows. Most tensors that are not on the lattice are
/// rejected after these blocks.
const LATTICE_PROBE: usize = 64;

/// Returns the bytes of a tensor whose weights are already on the format's lattice, for example from a checkpoint that
/// was trained for the format. Blocks on the lattice are carried over unchanged; the few other blocks are encoded.
/// Returns `None` if too few blocks are on the lattice. `size` is the number of bytes in `format`.
fn on_lattice(layer: &Layer, format: FormatRef, size: usize) -> Option<Vec<u8>> {
    let (lattice, grid) = (Lattice::new(layer.weight.format(), format)?, format.grid()?);
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
    let enough = |accepted: usize, all: usize| accepted as f64 >= LATTICE_SHARE * all as f64;
    let accepted = lattice.transplant(&probe, &mut out);
    if !enough(accepted.iter().filter(|a| **a).count(), accepted.len()) {
        return None;
    }
    let mut bytes = vec![0u8; size];
    let row_bytes = columns / block.elements * block.bytes;
    let refused: usize = bytes
        .par_chunks_mut(ROWS * row_bytes)
        .enumerate()
        .map(|(index, bytes)| {
            let x = decode(index * ROWS, bytes.len() / row_bytes);
            // Blocks that are not on the lattice keep the encoder's bytes.
            grid.encode(&x, layer.importance.filter(|w| w.iter().all(|&w| w > 0.0)), bytes);
            lattice.transplant(&x, bytes).iter().filter(|accepted| !**accepted).count()
        })
        .sum();
    let all = size / block.bytes;
    enough(all - refused, all).then_some(bytes)
}

/// The result of [`Hessian::solve_with_codes`].
struct SolvedBytes {
    /// The bytes of all rows.
    bytes: Vec<u8>,
    /// True if the target was corrected.
    corrected: bool,
    /// True if row feedback was requested but the sensitivity could not be factored.
    uncoupled: bool,
}

/// Number of rows of a slab. The targets of one slab are in memory at the same time.
pub const SLAB: usize = 16_384;

impl Hessian {
    /// Solves the layer in a format without codes. The rounding error of such a map is negligible, but the map can
    /// compensate for the errors of earlier maps.
    fn solve_without_codes(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let encoder = layer.encoder(format)?;
        let shape = *layer.weight.shape();
        let usable = layer.statistics.filter(|s| self.correction && s.columns == shape.columns());
        let correction = usable.and_then(|s| Correction::new(layer.backend, s, &layer.settings));
        let Some(correction) = correction else {
            return by_pieces(layer, format, &|_, x, out| encoder.encode(x, None, out));
        };
        let (n, rows) = (shape.columns(), shape.rows());
        let mut bytes = vec![0u8; format.tensor_bytes(&shape).map_err(|source| shape_error(layer, source))?];
        let row_bytes = bytes.len() / rows;
        for (slab, bytes) in bytes.chunks_mut(SLAB * row_bytes).enumerate() {
            let all: Vec<usize> = (slab * SLAB..rows.min((slab + 1) * SLAB)).collect();
            let mut target = vec![0.0f32; all.len() * n];
            layer.weight.format().decode(layer.weight.rows(slab * SLAB, all.len()), &mut target);
            correction.apply(layer.backend, &mut target, &all);
            encoder.encode(&target, None, bytes);
        }
        by_pieces(layer, format, &|first, x, out| {
            let start = first * row_bytes;
            out.copy_from_slice(&bytes[start..start + x.len() / n * row_bytes]);
        })
    }

    /// Solves the layer in a format with codes. Returns `None` if a weight is not finite or if the Gram matrix cannot
    /// be factored. `size` is the number of bytes in `format`.
    fn solve_with_codes(
        &self,
        layer: &Layer,
        statistics: &Statistics,
        format: FormatRef,
        grid: &dyn Grid,
        size: usize,
    ) -> Option<SolvedBytes> {
        let (n, settings) = (statistics.columns, layer.settings);
        let rows = layer.weight.shape().elements() / n;
        let row_bytes = n / format.block().elements * format.block().bytes;
        let requested = self.correction.then(|| Correction::new(layer.backend, statistics, &settings));
        let mut correction = requested.flatten();
        let corrected = correction.is_some();
        let (mut order, mut uncoupled) = (None, false);
        let mut bytes = vec![0u8; size];
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
                // The correction's factor is freed before the rounding's factor is built. A map with many columns has
                // only one slab. Both factors together would be the peak of its memory use.
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
                let solve_rows = |target: &[f32], bytes: &mut [u8]| -> Vec<f32> {
                    let codes = solve(target, bytes);
                    let values =
                        |c: &Codes| (0..c.codes.len()).map(|i| c.value(&levels, i)).collect::<Vec<_>>();
                    codes.iter().flat_map(values).collect()
                };
                if row_feedback::solve(layer.backend, sensitivity, start, n, &target, bytes, &solve_rows) {
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
        Some(SolvedBytes { bytes, corrected, uncoupled })
    }
}
