//! The state of the walk, and the parts that all stages share: sums over a stage's input, solving its maps.

use super::cost::{Cost, Part};
use crate::gather::{BlockSensitivities, Calibration, Inputs, Missing, Statistics};
use crate::plan::{Assignment, Recipe, map_kind};
use crate::solve::{Flag, Layer, Settings, Solved};
use crate::work_folder::WorkFolder;
use crate::{Error, Progress};
use kvant_kernels::{Backend, ops};
use kvant_model::{BlockSpec, Slot, Weights};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Chosen settings, by the map's name without the block prefix.
pub type Choices = BTreeMap<String, Settings>;

/// The inputs and the state of the walk.
pub struct Walk<'a> {
    /// The float network.
    pub weights: &'a Weights,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The format of every tensor.
    pub assignments: &'a [Assignment],
    /// The calibration text. The walk adds self-generated text.
    pub calibration: Calibration,
    /// The work folder.
    pub work: &'a WorkFolder,
    /// The backend of all matrix products.
    pub backend: &'a Backend,
    /// The receiver of progress reports.
    pub progress: &'a dyn Progress,
    /// The cost of the steps so far.
    pub cost: RefCell<Cost>,
}

/// Statistics of one stage: `all` to solve with, `selection` to choose settings with.
pub struct Sums {
    pub all: Statistics,
    pub selection: Option<Statistics>,
}

impl Walk<'_> {
    /// Reports the progress of the walk. `pass` is the number of the pass over all contexts in block `block`; a block
    /// has one pass for each stage and a final one.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the user stopped the run.
    pub fn report(&self, what: &str, block: usize, pass: usize, context: usize) -> Result<(), Error> {
        if self.progress.stop() {
            return Err(Error::Interrupted);
        }
        let (blocks, contexts) = (&self.weights.spec().blocks, self.calibration.contexts().len());
        let passes =
            |blocks: &[BlockSpec]| blocks.iter().map(|block| block.stages().len() + 1).sum::<usize>();
        let done = (passes(&blocks[..block]) + pass) * contexts + context;
        self.progress.at(done as u64, ((passes(blocks) + 1) * contexts) as u64, what);
        Ok(())
    }

    /// The number of values of a context's residual stream.
    pub fn residual_values(&self) -> usize {
        self.calibration.length() * self.weights.spec().hidden
    }

    /// The assignments of maps that must be solved: their format changes, or the wanted format does not fit their rows.
    pub fn changing(&self, slots: &[&Slot]) -> impl Iterator<Item = &Assignment> {
        let assignments = slots.iter().filter_map(|slot| self.assignment(&slot.weight()));
        assignments.filter(|a| a.changes())
    }

    pub fn assignment(&self, name: &str) -> Option<&Assignment> {
        self.assignments.iter().find(|a| a.entry.name == name)
    }

    /// Solves the maps that read the same activation, except those that keep their format.
    ///
    /// If `sums` has selection statistics, the method chooses settings. Otherwise the settings are those of `choices`,
    /// or those of the recipe.
    ///
    /// # Errors
    /// Errors of reading and solving; results that are not finite.
    pub fn solve(
        &self,
        slots: &[&Slot],
        mut sums: Option<Sums>,
        sensitivities: &BlockSensitivities,
        choices: &Choices,
    ) -> Result<Vec<(String, Solved)>, Error> {
        let assignments: Vec<_> = self.changing(slots).collect();
        let method = self.recipe.method;
        let earlier_choice = |a: &&Assignment| choices.get(map_kind(&a.entry.name)).copied();
        let mut chosen: Vec<Option<Settings>> = assignments.iter().map(earlier_choice).collect();
        if let Some(sums) = &mut sums
            && let Some(selection) = sums.selection.take()
        {
            for (assignment, chosen) in assignments.iter().zip(&mut chosen) {
                let name = &assignment.entry.name;
                let weight = self.weights.tensor(name)?;
                let layer = Layer {
                    statistics: Some(&sums.all),
                    settings: self.recipe.settings,
                    ..Layer::uncalibrated(name, &weight, self.backend)
                };
                let choose = || method.choose(&layer, assignment.format, &selection);
                *chosen = Some(self.cost.borrow_mut().time(Part::Choosing, 0.0, choose));
            }
            // The final run also uses the selection text.
            sums.all.merge(&selection);
        }
        let statistics = sums.as_ref().map(|s| &s.all);
        let importance = statistics.map(Statistics::mean_squares);
        let mut tensors = Vec::new();
        for (assignment, chosen) in assignments.into_iter().zip(chosen) {
            let name = assignment.entry.name.clone();
            let weight = self.weights.tensor(&name)?;
            let layer = Layer {
                importance: importance.as_deref(),
                statistics,
                sensitivity: sensitivities.get(&name),
                settings: chosen.unwrap_or(self.recipe.settings),
                ..Layer::uncalibrated(&name, &weight, self.backend)
            };
            let solve = || method.solve(&layer, assignment.format);
            let mut solved = self.cost.borrow_mut().time(Part::Solving, 0.0, solve)?;
            // Chosen settings have no effect on tensors that were carried over or encoded without statistics.
            let used = !solved.flags.iter().any(|flag| [Flag::Lattice, Flag::Uncalibrated].contains(flag));
            solved.chosen = chosen.filter(|_| used);
            solved.check_finite(self.weights.path(), &name)?;
            tensors.push((name, solved));
        }
        Ok(tensors)
    }

    /// Creates empty sums; with selection statistics if the method `chooses` settings at this place.
    pub fn sums(&self, columns: usize, missing: Missing, chooses: bool) -> Sums {
        let method = self.recipe.method;
        let missing = if method.corrects() { missing } else { Missing::Nothing };
        let empty = || Statistics::new(columns, missing);
        let contexts = 0..self.calibration.contexts().len();
        let selects =
            chooses && method.chooses() && contexts.into_iter().any(|i| self.calibration.selects(i));
        Sums { all: empty(), selection: selects.then(empty) }
    }

    /// Adds a context to the statistics that it belongs to.
    pub fn add(&self, sums: &mut Sums, context: usize, inputs: &Inputs) {
        let to = match &mut sums.selection {
            Some(selection) if self.calibration.selects(context) => selection,
            _ => &mut sums.all,
        };
        let adds = to.multiply_adds(inputs.quantized.len() / to.columns);
        self.cost.borrow_mut().time(Part::Sums, adds, || to.add(self.backend, inputs));
    }

    /// Returns `x` − `y`.
    pub fn difference(&self, mut x: Vec<f32>, y: &[f32]) -> Vec<f32> {
        ops::subtract(self.backend, &mut x, y);
        x
    }
}

impl Sums {
    /// Completes the Gram matrices.
    pub fn finish(&mut self) {
        self.all.finish();
        if let Some(selection) = &mut self.selection {
            selection.finish();
        }
    }
}
