//! The state of the walk through a network, and the steps that are the same for every stage: summing over the stage's
//! input, and solving the stage's linear layers (maps). A stage is the set of maps of a block that read the same input.

use super::cost::{Cost, Part};
use crate::gather::{BlockSensitivities, Calibration, Inputs, Missing, Statistics, missing_of_experts};
use crate::plan::{Assignment, Recipe, map_kind};
use crate::solve::{Flag, Layer, Settings, Solved, solve_experts};
use crate::work_folder::WorkFolder;
use crate::{Error, Progress};
use kvant_kernels::{Backend, ops};
use kvant_model::{BlockSpec, Routing, Slot, Stage, Weights};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Chosen settings, by the name of the map without the block prefix.
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

/// Statistics of one stage. `all` is used to solve the maps. `selection` is used to choose settings: it sums over
/// selection text (the part of the calibration text that is held out to choose settings). If `selection` is `None`, no
/// settings are chosen.
pub struct Sums {
    pub all: Statistics,
    pub selection: Option<Statistics>,
    /// The sums over the tokens of each expert, if the stage has maps of experts.
    pub experts: Vec<Statistics>,
}

impl Walk<'_> {
    /// Reports the progress of the walk. `pass` is the index of the pass over all contexts in block `block`. A block
    /// has one pass for each stage and one final pass. `context` is the index of the context in the pass.
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

    /// Returns the number of values in the stream of one context: the residual stream, followed by the values that later
    /// blocks read beside it.
    pub fn stream_values(&self) -> usize {
        self.calibration.length() * self.weights.spec().stream_width()
    }

    /// Returns the assignments of the maps that must be solved. A map must be solved if its format changes, or if the
    /// wanted format does not fit its rows.
    pub fn changing(&self, slots: &[&Slot]) -> impl Iterator<Item = &Assignment> {
        let assignments = slots.iter().filter_map(|slot| self.assignment(&slot.weight()));
        assignments.filter(|a| a.changes())
    }

    pub fn assignment(&self, name: &str) -> Option<&Assignment> {
        self.assignments.iter().find(|a| a.entry.name == name)
    }

    /// Solves maps that read the same input. Does not solve maps that keep their format.
    ///
    /// If `sums` has selection statistics, the method chooses settings. Otherwise the settings of a map come from
    /// `choices`, or from the recipe if `choices` has no settings for this kind of map.
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
            // After the choice, the maps are solved with the selection text too.
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
            let experts = sums.as_ref().map_or(&[][..], |sums| &sums.experts);
            let solve = || match assignment.entry.experts() {
                1 => method.solve(&layer, assignment.format),
                _ => solve_experts(method, &layer, experts, assignment.format),
            };
            let mut solved = self.cost.borrow_mut().time(Part::Solving, 0.0, solve)?;
            // The chosen settings had no effect if the tensor was carried over or encoded without statistics.
            let used = !solved.flags.iter().any(|flag| [Flag::Lattice, Flag::Uncalibrated].contains(flag));
            solved.chosen = chosen.filter(|_| used);
            solved.check_finite(self.weights.path(), &name)?;
            tensors.push((name, solved));
        }
        Ok(tensors)
    }

    /// Creates empty sums. They include selection statistics if `chooses` is true, the method chooses settings, and the
    /// calibration has selection text. `missing` is ignored if the method does not correct earlier errors.
    pub fn sums(&self, columns: usize, missing: Missing, chooses: bool) -> Sums {
        let method = self.recipe.method;
        let missing = if method.corrects() { missing } else { Missing::Nothing };
        let empty = || Statistics::new(columns, missing);
        let contexts = 0..self.calibration.contexts().len();
        let selects =
            chooses && method.chooses() && contexts.into_iter().any(|i| self.calibration.selects(i));
        Sums { all: empty(), selection: selects.then(empty), experts: Vec::new() }
    }

    /// Creates empty sums for each expert of a stage.
    pub fn sums_of_experts(&self, stage: &Stage) -> Vec<Statistics> {
        let corrects = self.recipe.method.corrects();
        let missing = if corrects { missing_of_experts(stage) } else { Missing::Nothing };
        let of_expert = |_| Statistics::new(stage.slots[0].columns, missing);
        (0..stage.experts().unwrap_or(0)).map(of_expert).collect()
    }

    /// Adds the inputs of a context to the selection statistics if the context is selection text and these statistics
    /// exist. Otherwise adds the inputs to `all`.
    pub fn add(&self, sums: &mut Sums, context: usize, inputs: &Inputs) {
        let to = match &mut sums.selection {
            Some(selection) if self.calibration.selects(context) => selection,
            _ => &mut sums.all,
        };
        let adds = to.multiply_adds(inputs.quantized.len() / to.columns);
        self.cost.borrow_mut().time(Part::Sums, adds, || to.add(self.backend, inputs));
    }

    /// Adds each token's input to the sums of its experts. Does nothing for a stage without experts.
    pub fn add_routed(&self, experts: &mut [Statistics], inputs: &Inputs, routing: Option<&Routing>) {
        let (Some(routing), Some(first)) = (routing, experts.first()) else { return };
        let columns = first.columns;
        let tokens = routing.experts.len() / routing.used;
        let rows_per_token = inputs.quantized.len() / columns / tokens;
        for (expert, rows) in routing.rows_of_experts() {
            let own = |x: &[f32]| -> Vec<f32> {
                let start = |row: &usize| row * rows_per_token / routing.used * columns;
                rows.iter().flat_map(|row| x[start(row)..][..columns].iter().copied()).collect()
            };
            let to = &mut experts[expert];
            let has_missed = to.missing != Missing::Nothing;
            let quantized = own(inputs.quantized);
            let missed = if has_missed { own(inputs.missed) } else { Vec::new() };
            let adds = to.multiply_adds(rows.len());
            let inputs = Inputs { quantized: &quantized, missed: &missed, weights: None };
            self.cost.borrow_mut().time(Part::Sums, adds, || to.add(self.backend, &inputs));
        }
    }

    /// Returns `x` − `y`, element by element.
    pub fn difference(&self, mut x: Vec<f32>, y: &[f32]) -> Vec<f32> {
        ops::subtract(self.backend, &mut x, y);
        x
    }
}

impl Sums {
    /// Copies the lower triangle of each Gram matrix to the upper triangle.
    pub fn finish(&mut self) {
        self.all.finish();
        if let Some(selection) = &mut self.selection {
            selection.finish();
        }
        self.experts.iter_mut().for_each(Statistics::finish);
    }
}
