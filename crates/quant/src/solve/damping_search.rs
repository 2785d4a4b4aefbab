//! Chooses the dampings of a linear layer (map). It tries several dampings on some rows and compares their losses on
//! the selection text: the part of the calibration text that is held out to choose settings.
//!
//! ```text
//! W: original rows;  V: rounded rows;  xq: input in the quantized network
//! m: difference of the results, float network minus quantized network  (`correction`)
//! for each pair of dampings, the largest first:
//!     V ← GPTQ of the corrected target of some rows, with sums that do not contain the selection text
//!     loss ← Σ ‖W xq + m − V xq‖² over the selection text
//! gain of a pair ← loss without correction − loss of the pair
//! take the first pair whose gain is nearly as large as the largest gain
//! ```
//!
//! If two pairs have about the same loss, the larger dampings depend less on the topics of the calibration text.

use super::act_order::ActOrder;
use super::correction::{self, Correction};
use super::gptq;
use super::solver::{Layer, Settings};
use crate::gather::Statistics;
use kvant_core::FormatRef;
use rayon::prelude::*;

/// Maximum number of rows on which dampings are tried. These rows are evenly spread over the map.
const ROWS: usize = 96;
/// Number of rows that one thread rounds together.
const ROWS_PER_TASK: usize = 16;

/// Pairs (damping of the correction, damping of the rounding), the largest first.
const DAMPINGS: [(f32, f32); 6] =
    [(3.0, 1.0), (1.0, 0.3), (0.3, 0.1), (0.1, 0.1), (0.03, 0.03), (0.01, 0.01)];

/// Minimum gain of the chosen pair, as a share of the largest gain.
const MIN_GAIN_SHARE: f64 = 0.97;

/// Returns the settings for `layer`. `statistics` has the sums without the selection text, `selection` the sums over
/// the selection text.
pub fn choose(layer: &Layer, statistics: &Statistics, selection: &Statistics, format: FormatRef) -> Settings {
    let (n, settings) = (statistics.columns, layer.settings);
    let rows = layer.weight.shape().elements() / n;
    let sample: Vec<usize> = (0..ROWS.min(rows)).map(|i| i * rows / ROWS.min(rows)).collect();
    let mut original = vec![0.0f32; sample.len() * n];
    for (row, &at) in original.chunks_exact_mut(n).zip(&sample) {
        layer.weight.format().decode(layer.weight.rows(at, 1), row);
    }
    let attempt = |settings: &Settings| -> Option<f64> {
        let mut target = original.clone();
        if settings.correction_damping.is_some() {
            Correction::new(layer.backend, statistics, settings)?.apply(layer.backend, &mut target, &sample);
        }
        let values = match format.grid() {
            Some(grid) => {
                let order = ActOrder::new(layer.backend, statistics, format.block(), settings)?;
                let levels = grid.levels();
                let rounded = target.par_chunks(ROWS_PER_TASK * n).flat_map_iter(|rows| {
                    let codes = gptq::round_rows(layer.backend, grid, format, &order, rows);
                    codes.into_iter().flat_map(|c| (0..c.codes.len()).map(move |i| c.value(&levels, i)))
                });
                rounded.collect()
            }
            // In a format without codes, the rounding error is negligible. The stored values count as equal to the
            // target.
            None => target,
        };
        Some(correction::loss(layer.backend, selection, &original, &sample, &values))
    };
    let uncorrected = Settings { damping: 0.3, correction_damping: None, ..settings };
    let Some(uncorrected_loss) = attempt(&uncorrected) else { return settings };
    let mut gains = Vec::new();
    for (correction_damping, damping) in DAMPINGS {
        let settings = Settings { damping, correction_damping: Some(correction_damping), ..settings };
        if let Some(loss) = attempt(&settings).filter(|l| l.is_finite()) {
            gains.push((uncorrected_loss - loss, settings));
        }
    }
    let best = gains.iter().map(|g| g.0).fold(0.0, f64::max);
    // If no pair has a positive gain, the map is not corrected.
    gains.iter().find(|g| g.0 > 0.0 && g.0 >= MIN_GAIN_SHARE * best).map_or(uncorrected, |g| g.1)
}
