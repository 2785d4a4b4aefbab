//! Gathers an importance matrix: sums of squares of the input of every linear layer (map) on calibration text.

use super::{Entry, Importance};
use crate::gather::Calibration;
use crate::{Error, Progress};
use kvant_kernels::Backend;
use kvant_model::{Block, Embedding, Positions, Weights};
use std::collections::BTreeMap;

/// Gathers the sums of squares of every map's input in the float network, as llama-imatrix does.
///
/// # Errors
/// Errors of reading and of the network; contexts longer than the learned positions; [`Error::Interrupted`].
pub fn gather_importance(
    weights: &Weights,
    calibration: &Calibration,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Importance, Error> {
    let spec = weights.spec();
    calibration.check(spec)?;
    let embedding = Embedding::load(weights, backend)?;
    let positions = Positions::new(spec, 0, calibration.length());
    let blocks: Vec<Block> =
        (0..spec.blocks.len()).map(|index| Block::load(weights, backend, index)).collect::<Result<_, _>>()?;
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let all = calibration.contexts().len();
    for (done, tokens) in calibration.contexts().iter().enumerate() {
        if progress.stop() {
            return Err(Error::Interrupted);
        }
        progress.at(done as u64, all as u64 + 1, "importance of columns");
        let mut residual = embedding.rows(tokens, 0..);
        for (block, spec) in blocks.iter().zip(&spec.blocks) {
            let mut x = block.enter(&residual);
            for (number, stage) in spec.stages().iter().enumerate() {
                let columns = stage.slots[0].columns;
                let sum = sums.entry(stage.slots[0].weight()).or_insert_with(|| vec![0.0; columns]);
                for row in x.chunks_exact(columns) {
                    sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x * x));
                }
                x = block.advance_alone(number, &x, &mut residual, &positions);
            }
        }
    }
    let counts = vec![calibration.tokens() as f32];
    let mut importance = Importance {
        datasets: vec![calibration.source().to_owned()],
        chunk_count: all as u32,
        chunk_size: calibration.length() as u32,
        ..Importance::default()
    };
    for stage in spec.blocks.iter().flat_map(|b| b.stages()) {
        let Some(sums) = sums.get(&stage.slots[0].weight()) else { continue };
        let sums: Vec<f32> = sums.iter().map(|&s| s as f32).collect();
        for slot in &stage.slots {
            importance.entries.insert(slot.weight(), Entry { sums: sums.clone(), counts: counts.clone() });
        }
    }
    Ok(importance)
}
