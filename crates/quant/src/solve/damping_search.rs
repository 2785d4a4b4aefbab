//! Which dampings a map gets: tried on some of its rows, judged on text that was kept out of the sums.
//!
//! ```text
//! for each pair of dampings, the largest first:
//!     values ← GPTQ of the corrected target of some rows, under the sums without selection text
//!     loss ← Σ ‖W xq + m − V xq‖² on selection text
//! take the first pair that gains nearly as much over no correction as the best one
//! ```
//!
//! The larger of two dampings that do about as well is the one that leans less on what calibration text happens to
//! be about.

use super::act_order::ActOrder;
use super::correction::{self, Correction};
use super::gptq;
use super::solver::{Layer, Settings};
use crate::gather::Statistics;
use kvant_core::FormatRef;
use rayon::prelude::*;

/// Rows that are tried, spread evenly.
const ROWS: usize = 96;
/// Rows that a thread rounds at a time.
const TASK: usize = 16;

/// Dampings of the correction and of the rounding, largest first.
const LADDER: [(f32, f32); 6] = [(3.0, 1.0), (1.0, 0.3), (0.3, 0.1), (0.1, 0.1), (0.03, 0.03), (0.01, 0.01)];

/// Share of the best pair's gain that suffices.
const NEARLY: f64 = 0.97;

/// The settings to solve `layer` with.
pub fn choose(layer: &Layer, statistics: &Statistics, selection: &Statistics, format: FormatRef) -> Settings {
    let (n, settings) = (statistics.columns, layer.settings);
    let rows = layer.weight.shape().elements() / n;
    let tried: Vec<usize> = (0..ROWS.min(rows)).map(|i| i * rows / ROWS.min(rows)).collect();
    let mut original = vec![0.0f32; tried.len() * n];
    for (row, &at) in original.chunks_exact_mut(n).zip(&tried) {
        layer.weight.format().decode(layer.weight.rows(at, 1), row);
    }
    let attempt = |settings: &Settings| -> Option<f64> {
        let mut target = original.clone();
        if settings.correction_damping.is_some() {
            Correction::new(layer.backend, statistics, settings)?.apply(layer.backend, &mut target, &tried);
        }
        let values = match format.grid() {
            Some(grid) => {
                let order = ActOrder::new(layer.backend, statistics, format.block(), settings)?;
                let levels = grid.levels();
                let rounded = target.par_chunks(TASK * n).flat_map_iter(|rows| {
                    let codes = gptq::round_rows(layer.backend, grid, format, &order, rows);
                    codes.into_iter().flat_map(|c| (0..c.codes.len()).map(move |i| c.value(&levels, i)))
                });
                rounded.collect()
            }
            // What a format without codes loses is next to nothing.
            None => target,
        };
        Some(correction::loss(layer.backend, selection, &original, &tried, &values))
    };
    let uncorrected = Settings { damping: 0.3, correction_damping: None, ..settings };
    let Some(without) = attempt(&uncorrected) else { return settings };
    let mut gains = Vec::new();
    for (correction_damping, damping) in LADDER {
        let settings = Settings { damping, correction_damping: Some(correction_damping), ..settings };
        if let Some(loss) = attempt(&settings).filter(|l| l.is_finite()) {
            gains.push((without - loss, settings));
        }
    }
    let best = gains.iter().map(|g| g.0).fold(0.0, f64::max);
    // Where every correction loses, none is made.
    gains.iter().find(|g| g.0 > 0.0 && g.0 >= NEARLY * best).map_or(uncorrected, |g| g.1)
}
