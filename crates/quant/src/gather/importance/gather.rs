//! Gathers an importance matrix: sums of squares of the input of every linear layer (map) on calibration text.

use super::{Entry, Importance};
use crate::gather::Calibration;
use crate::{Error, Progress};
use kvant_kernels::Backend;
use kvant_model::{Block, Embedding, Positions, Routing, Slot, Stage, Weights};
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
    let mut sums: BTreeMap<String, ColumnSums> = BTreeMap::new();
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
                let routing = block.routing(number, &x, &residual);
                for (experts, slot) in groups(stage) {
                    let sum =
                        sums.entry(slot.weight()).or_insert_with(|| ColumnSums::new(experts, slot.columns));
                    match (experts, &routing) {
                        (Some(_), Some(routing)) => sum.add_routed(&x, routing, stage.rows_per_token),
                        _ => x.chunks_exact(slot.columns).for_each(|row| sum.add(0, row)),
                    }
                }
                x = block.advance_alone(number, &x, &mut residual, &positions);
            }
        }
    }
    let mut importance = Importance {
        datasets: vec![calibration.source().to_owned()],
        chunk_count: all as u32,
        chunk_size: calibration.length() as u32,
        ..Importance::default()
    };
    for stage in spec.blocks.iter().flat_map(|b| b.stages()) {
        for (experts, first) in groups(&stage) {
            let Some(sums) = sums.get(&first.weight()) else { continue };
            for slot in stage.slots.iter().filter(|slot| slot.experts == experts) {
                importance.entries.insert(slot.weight(), sums.entry());
            }
        }
    }
    Ok(importance)
}

/// Returns the first map of each group of a stage whose maps have the same sums: single maps, and maps of experts. A group
/// has its number of experts.
fn groups<'a>(stage: &Stage<'a>) -> Vec<(Option<usize>, &'a Slot)> {
    let first =
        |experts| stage.slots.iter().find(|slot| slot.experts == experts).map(|slot| (experts, *slot));
    let experts = stage.experts();
    [first(None), experts.and_then(|_| first(experts))].into_iter().flatten().collect()
}

/// Sums of squares of the inputs of a map, or of the maps of all experts.
struct ColumnSums {
    columns: usize,
    /// Experts × columns.
    sums: Vec<f64>,
    /// The number of inputs of each expert.
    counts: Vec<usize>,
}

impl ColumnSums {
    fn new(experts: Option<usize>, columns: usize) -> Self {
        let experts = experts.unwrap_or(1);
        Self { columns, sums: vec![0.0; experts * columns], counts: vec![0; experts] }
    }

    fn add(&mut self, expert: usize, row: &[f32]) {
        let sums = &mut self.sums[expert * self.columns..][..self.columns];
        sums.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x * x));
        self.counts[expert] += 1;
    }

    /// Adds the rows of `x` to their experts. `x` has `rows_per_token` rows for each token.
    fn add_routed(&mut self, x: &[f32], routing: &Routing, rows_per_token: usize) {
        let columns = self.columns;
        for (row, &expert) in routing.experts.iter().enumerate() {
            let row = row * rows_per_token / routing.used;
            self.add(expert, &x[row * columns..][..columns]);
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            sums: self.sums.iter().map(|&sum| sum as f32).collect(),
            counts: self.counts.iter().map(|&count| count as f32).collect(),
        }
    }
}
