//! The walk itself and what its stages share: sums over a stage's input, and the solving of its maps.

use super::cost::{Cost, Part};
use crate::gather::{BlockSensitivities, Calibration, Inputs, Missing, Statistics};
use crate::plan::{Assignment, Recipe, map_kind};
use crate::solve::{Layer, Settings, Solved};
use crate::work_folder::WorkFolder;
use crate::{Error, Progress};
use kvant_kernels::{Backend, ops};
use kvant_model::{BlockSpec, Slot, Weights};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Settings that were chosen, by the map's name without its block.
pub type Choices = BTreeMap<String, Settings>;

/// What the walk needs.
pub struct Walk<'a> {
    /// The float network.
    pub weights: &'a Weights,
    /// What to do.
    pub recipe: &'a Recipe,
    /// The format of every tensor.
    pub assignments: &'a [Assignment],
    /// The text, to which the walk adds what the network writes itself.
    pub calibration: Calibration,
    /// Where unfinished work lies.
    pub work: &'a WorkFolder,
    /// What products run on.
    pub backend: &'a Backend,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// What the steps have cost so far.
    pub cost: RefCell<Cost>,
}

/// Sums of one stage: what is solved on, and what is chosen by.
pub struct Sums {
    pub all: Statistics,
    pub selection: Option<Statistics>,
}

impl Walk<'_> {
    /// Tells how far the walk is: `pass` of a block's passes (its stages and the last) over context `context`.
    pub fn say(&self, what: &str, block: usize, pass: usize, context: usize) -> Result<(), Error> {
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

    /// Numbers of a context's residual stream.
    pub fn residual_numbers(&self) -> usize {
        self.calibration.length() * self.weights.spec().hidden
    }

    /// The assignments of maps that don't keep their format, or keep it because they must.
    pub fn changing(&self, slots: &[&Slot]) -> impl Iterator<Item = &Assignment> {
        let assignments = slots.iter().filter_map(|slot| self.assignment(&slot.weight()));
        assignments.filter(|a| a.changes())
    }

    pub fn assignment(&self, name: &str) -> Option<&Assignment> {
        self.assignments.iter().find(|a| a.entry.name == name)
    }

    /// Solves the maps that read one activation, but for those that keep their format.
    ///
    /// Where there is text to choose by, settings are chosen; else they are those of `choices`, if any.
    pub fn solve(
        &self,
        slots: &[&Slot],
        mut sums: Option<Sums>,
        sensitivities: &BlockSensitivities,
        choices: &Choices,
    ) -> Result<Vec<(String, Solved)>, Error> {
        let assignments: Vec<_> = self.changing(slots).collect();
        let method = self.recipe.method;
        let kept = |a: &&Assignment| choices.get(map_kind(&a.entry.name)).copied();
        let mut chosen: Vec<Option<Settings>> = assignments.iter().map(kept).collect();
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
            // What was kept out to choose by comes back for the final run.
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
            // Of what was carried over or encoded without sums nothing was chosen.
            let asked = !solved.flags.iter().any(|flag| ["lattice", "uncalibrated"].contains(flag));
            solved.chosen = chosen.filter(|_| asked);
            solved.check_finite(self.weights.path(), &name)?;
            tensors.push((name, solved));
        }
        Ok(tensors)
    }

    pub fn sums(&self, columns: usize, missing: Missing, chooses: bool) -> Sums {
        let method = self.recipe.method;
        let missing = if method.corrects() { missing } else { Missing::Nothing };
        let empty = || Statistics::new(columns, missing);
        let contexts = 0..self.calibration.contexts().len();
        let selects =
            chooses && method.chooses() && contexts.into_iter().any(|i| self.calibration.selects(i));
        Sums { all: empty(), selection: selects.then(empty) }
    }

    pub fn add(&self, sums: &mut Sums, context: usize, inputs: &Inputs) {
        let to = match &mut sums.selection {
            Some(selection) if self.calibration.selects(context) => selection,
            _ => &mut sums.all,
        };
        let adds = to.multiply_adds(inputs.quantized.len() / to.columns);
        self.cost.borrow_mut().time(Part::Sums, adds, || to.add(self.backend, inputs));
    }

    /// `x` less `y`.
    pub fn less(&self, mut x: Vec<f32>, y: &[f32]) -> Vec<f32> {
        ops::subtract(self.backend, &mut x, y);
        x
    }
}

impl Sums {
    pub fn finish(&mut self) {
        self.all.finish();
        if let Some(selection) = &mut self.selection {
            selection.finish();
        }
    }
}
