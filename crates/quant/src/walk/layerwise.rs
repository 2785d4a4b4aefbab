//! The walk through a network block by block, for methods that need activations.
//!
//! ```text
//! write self-generated text with the float network                  (`self_generated`)
//! compute the sensitivity of the output to errors of each linear layer (map)   (`sensitivity`)
//! solve the embedding; if it is tied to the head, with statistics of the float network's head input
//! both residual streams ← embedding of every context                 (float network, quantized network)
//! for each block:
//!     for each stage (the maps of the block that read the same input):
//!         sum over all contexts of the stage's inputs in both networks   (`statistics`)
//!         solve the stage's maps; the quantized network uses the solved weights from here on
//!     save the block and both residual streams
//! solve the head, if it is not tied to the embedding
//! ```
//!
//! Memory holds one block and one context's activations. The work folder holds the activations of all contexts and the
//! solved tensors. A stopped run resumes after the last saved block, and the result is the same byte for byte. Not
//! covered here: writing the output; see `quantize`. Solving embedding and head; see `embedding_and_head`.

use super::block_runner::{BlockRunner, Path, State};
use super::cost::Part;
use super::residual_pair::ResidualPair;
use super::solutions::Solutions;
use super::stages::{Choices, Walk};
use super::unit::Unit;
use crate::Error;
use crate::gather::{
    BlockSensitivities, Inputs, Missing, Seed, gather_sensitivities, sensitivities_of_block,
    with_self_generated,
};
use crate::plan::{map_kind, planned};
use crate::solve::{Layer, Solved};
use crate::work_folder;
use kvant_core::Tensor;
use kvant_model::{Block, BlockSpec, Embedding, Positions, Spec, Stage, StageOutput, load_matrix};

/// The distance between two blocks in which a method chooses settings: it chooses in blocks 0, 4, 8 and so on. The
/// other blocks reuse the last choice for the same kind of map. This saves time, because choosing takes as long as
/// solving. Adjacent blocks need similar settings.
const CHOICE_EVERY: usize = 4;

impl<'a> Walk<'a> {
    /// Solves every map that changes its format. Ignores all other tensors.
    ///
    /// # Errors
    /// Errors of reading, solving and the work folder; [`Error::Interrupted`].
    pub fn run(&mut self) -> Result<Solutions<'a>, Error> {
        let spec = self.weights.spec();
        self.calibration.check(spec)?;
        let carried = self.all_carried()?;
        if !carried {
            self.gather()?;
        }
        let mut solutions = Solutions::new(self.work, spec, |slots| planned(self.changing(slots)));
        let mut embedding = self.unit(&solutions, work_folder::EMBEDDING, || self.embedding())?;
        solutions.record_flags(&embedding);
        let table = match embedding.tensors.pop() {
            Some((_, solved)) => solved.tensor,
            None => self.weights.tensor(&spec.embedding.tokens.weight())?,
        };
        let (mut next, mut choices, mut residuals) = self.resume(&mut solutions, carried)?;
        if next == 0 && !carried {
            self.begin(&table, &mut residuals[0])?;
        }
        drop(table);
        while next < spec.blocks.len() {
            let unit =
                if carried { self.carried_block(next)? } else { self.block(next, &choices, &mut residuals)? };
            unit.save(self.work, &work_folder::block(next))?;
            choices = chosen_settings(&unit);
            solutions.record_flags(&unit);
            next += 1;
        }
        if let Some(head) = spec.output.head.own() {
            let unit =
                self.unit(&solutions, work_folder::HEAD, || self.head(head, &mut residuals[next % 2]))?;
            solutions.record_flags(&unit);
        }
        if let Some(head) = spec.head().filter(|_| !carried && !spec.blocks.is_empty()) {
            let name = head.weight();
            let head = solutions
                .get(&name)?
                .map_or_else(|| self.weights.tensor(&name).map_err(Error::from), |s| Ok(s.tensor))?;
            solutions.expected = self.expected(&mut residuals[next % 2], &head)?;
        }
        Ok(solutions)
    }

    /// Adds self-generated text to the calibration. Gathers sums of gradients for methods that use gradients.
    fn gather(&mut self) -> Result<(), Error> {
        let Self { weights, recipe, work, backend, progress, .. } = *self;
        let seed = Seed(recipe.seed);
        let text = &self.calibration;
        let write =
            || with_self_generated(weights, text, recipe.self_generated, seed, work, backend, progress);
        let calibration = self.cost.borrow_mut().time(Part::OwnText, 0.0, write)?;
        if recipe.method.couples() {
            let gather = || gather_sensitivities(weights, &calibration, seed, work, backend, progress);
            self.cost.borrow_mut().time(Part::Sensitivity, 0.0, gather)?;
        }
        self.calibration = calibration;
        Ok(())
    }

    /// Loads a unit (the tensors that are saved in one file). Solves and saves the unit if it was not saved before.
    fn unit(
        &self,
        solutions: &Solutions,
        name: &str,
        solve: impl FnOnce() -> Result<Unit, Error>,
    ) -> Result<Unit, Error> {
        if let Some(unit) = solutions.load(name)? {
            return Ok(unit);
        }
        let unit = solve()?;
        unit.save(self.work, name)?;
        Ok(unit)
    }

    /// Returns the index of the first block without a saved solution, the settings of the previous block, and both
    /// pairs of residual streams. For block number `block`, the pair with index `block % 2` is the input, and the other
    /// pair is the output.
    fn resume(
        &self,
        solutions: &mut Solutions,
        carried: bool,
    ) -> Result<(usize, Choices, [ResidualPair; 2]), Error> {
        let context_values = self.stream_values();
        let mut residuals = [
            ResidualPair::open(self.work, "residual-0", context_values)?,
            ResidualPair::open(self.work, "residual-1", context_values)?,
        ];
        let (mut next, mut expected, mut choices) = (0, None, Choices::new());
        while next < self.weights.spec().blocks.len()
            && let Some(unit) = solutions.load(&work_folder::block(next))?
        {
            choices = chosen_settings(&unit);
            solutions.record_flags(&unit);
            expected = unit.residuals;
            next += 1;
        }
        // If all blocks are carried over, the walk neither writes nor needs residual streams.
        if next > 0
            && !carried
            && expected != Some(residuals[next % 2].digests(self.calibration.contexts().len())?)
        {
            return Err(self.work.streams_damaged(&format!("residual-{}-float", next % 2)));
        }
        Ok((next, choices, residuals))
    }

    /// Writes both residual streams before the first block. The float network's stream holds embeddings from the float
    /// table. The quantized network's stream holds embeddings from `table`, the quantized table.
    fn begin(&self, table: &Tensor, residuals: &mut ResidualPair) -> Result<(), Error> {
        let (weights, backend) = (self.weights, self.backend);
        let float = Embedding::load(weights, backend)?;
        let name = weights.spec().embedding.tokens.weight();
        let table = load_matrix(backend, table, weights, &name)?;
        let quantized = Embedding::with_tokens(weights, backend, table)?;
        for (i, tokens) in self.calibration.contexts().iter().enumerate() {
            residuals.write(i, &float.rows(tokens, 0..), &quantized.rows(tokens, 0..))?;
        }
        Ok(())
    }

    /// Returns true if the walk needs no activations: the network has no head of its own, and every map of every block
    /// keeps its format or is carried over. A map is carried over, not solved, if its weights are already points of the
    /// format's lattice.
    fn all_carried(&self) -> Result<bool, Error> {
        let Spec { blocks, output, .. } = self.weights.spec();
        if blocks.is_empty() || output.head.own().is_some() {
            return Ok(false);
        }
        for slot in blocks.iter().flat_map(BlockSpec::slots) {
            if self.changing(&[slot]).next().is_some() && self.carry(&slot.weight())?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the unit of a block whose maps are all carried over.
    fn carried_block(&self, index: usize) -> Result<Unit, Error> {
        let mut tensors = Vec::new();
        for stage in self.weights.spec().blocks[index].stages() {
            self.report(&format!("block {index}: {}", stage.slots[0].name), index, 0, 0)?;
            for assignment in self.changing(&stage.slots) {
                let name = &assignment.entry.name;
                if let Some(solved) = self.carry(name)? {
                    solved.check_finite(self.weights.path(), name)?;
                    tensors.push((name.clone(), solved));
                }
            }
        }
        Ok(Unit { tensors, residuals: None })
    }

    /// Returns the map in its assigned format, without loss; `None` if its weights are not points of the format's
    /// lattice.
    fn carry(&self, name: &str) -> Result<Option<Solved>, Error> {
        let Some(assignment) = self.assignment(name) else { return Ok(None) };
        let weight = self.weights.tensor(name)?;
        self.recipe.method.carry(&Layer::uncalibrated(name, &weight, self.backend), assignment.format)
    }

    /// Runs a stage of one network on one context. `number` is the index of the stage in its block.
    fn advance(&self, runner: &BlockRunner, stage: &Stage, number: usize, state: State) -> State {
        let maps: usize = stage.slots.iter().map(|s| s.rows * s.columns).sum();
        let adds = (self.calibration.length() * maps) as f64;
        self.cost.borrow_mut().time(Part::Passes, adds, || runner.advance(number, state))
    }

    /// Solves the maps of a block and writes the residual streams after it.
    fn block(
        &self,
        index: usize,
        choices: &Choices,
        residuals: &mut [ResidualPair; 2],
    ) -> Result<Unit, Error> {
        let (length, hidden) = (self.calibration.length(), self.weights.spec().hidden);
        let stages = self.weights.spec().blocks[index].stages();
        let positions = Positions::new(self.weights.spec(), 0, length);
        let stream_width = self.weights.spec().stream_width();
        let path = Path { stages: &stages, positions: &positions, length, stream_width };
        // The residual stream is the first part of the stream.
        let residual = |state: &State| state.stream[..length * hidden].to_vec();
        let [even, odd] = residuals;
        let (before, after) = if index.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let block = Block::load(self.weights, self.backend, index)?;
        let runner = |name: &str, block, from, to| BlockRunner::new(self.work, name, block, &path, from, to);
        let mut float = runner("float", block.clone(), &mut before.float, &mut after.float)?;
        let mut quantized = runner("quantized", block, &mut before.quantized, &mut after.quantized)?;
        let contexts = 0..self.calibration.contexts().len();
        let sensitivities = if self.recipe.method.couples() {
            sensitivities_of_block(self.work, self.weights.spec(), index)?
        } else {
            BlockSensitivities::new()
        };
        let mut tensors = Vec::new();
        for (number, stage) in stages.iter().enumerate() {
            let what = format!("block {index}: {}", stage.slots[0].name);
            let missing = match stage.output {
                _ if stage.rows_per_token > 1 => Missing::Nothing,
                StageOutput::Added => Missing::Result(hidden),
                StageOutput::Inner | StageOutput::AddedAfterChange => Missing::Input,
            };
            let mut sums = self.sums(stage.slots[0].columns, missing, index.is_multiple_of(CHOICE_EVERY));
            sums.experts = self.sums_of_experts(stage);
            for context in contexts.clone() {
                self.report(&what, index, number, context)?;
                // The float network is one stage ahead of the quantized network, because the quantized network cannot
                // run a stage before the stage's maps are solved.
                let earlier = number.checked_sub(1);
                let (quantized_state, float_state) = rayon::join(
                    || quantized.before(earlier.unwrap_or(0), context),
                    || float.before(number, context),
                );
                let (mut quantized_state, float_state) = (quantized_state?, float_state?);
                if let Some(earlier) = earlier {
                    quantized_state = self.advance(&quantized, &stages[earlier], earlier, quantized_state);
                }
                let missing = sums.all.missing;
                let float_input =
                    if missing == Missing::Input { float_state.input.clone() } else { Vec::new() };
                let float_next = self.advance(&float, stage, number, float_state);
                let (quantized_stored, float_stored) = rayon::join(
                    || earlier.map_or(Ok(()), |earlier| quantized.store(earlier, context, &quantized_state)),
                    || float.store(number, context, &float_next),
                );
                quantized_stored.and(float_stored)?;
                let weights = (stage.output == StageOutput::Added)
                    .then(|| token_weights(&residual(&float_next), hidden));
                let missed = match missing {
                    Missing::Nothing => Vec::new(),
                    Missing::Input => self.difference(float_input, &quantized_state.input),
                    Missing::Result(_) => {
                        // Applies the float weights to the quantized network's input.
                        let quantized_next = self.advance(&float, stage, number, quantized_state.clone());
                        self.difference(residual(&float_next), &residual(&quantized_next))
                    }
                };
                let inputs = Inputs {
                    quantized: &quantized_state.input,
                    missed: &missed,
                    weights: weights.as_deref(),
                };
                let routing =
                    quantized.block.routing(number, &quantized_state.input, &quantized_state.stream);
                self.add(&mut sums, context, &inputs);
                self.add_routed(&mut sums.experts, &inputs, routing.as_ref());
            }
            sums.finish();
            let solved = self.solve(&stage.slots, Some(sums), &sensitivities, choices)?;
            for (name, solved) in &solved {
                quantized.block.replace(name, &solved.tensor, self.weights)?;
            }
            tensors.extend(solved);
        }
        let last = stages.len() - 1;
        for context in contexts {
            self.report(&format!("block {index}: onwards"), index, stages.len(), context)?;
            let state = quantized.before(last, context)?;
            let state = self.advance(&quantized, &stages[last], last, state);
            quantized.store(last, context, &state)?;
        }
        Ok(Unit { tensors, residuals: Some(after.digests(self.calibration.contexts().len())?) })
    }
}

/// Returns the weight of each token's error in the residual stream. The weight is proportional to 1 / Σ x², where x are
/// the values of the token's row. The mean weight of the context is 1. The next norm divides each row by its root mean
/// square, so an error in a row with large values has less effect.
fn token_weights(residual: &[f32], hidden: usize) -> Vec<f32> {
    let squares = residual.chunks_exact(hidden).map(|row| row.iter().map(|x| x * x).sum::<f32>().max(1e-20));
    let mut weights: Vec<f32> = squares.map(|square| 1.0 / square).collect();
    let mean = weights.iter().sum::<f32>() / weights.len() as f32;
    weights.iter_mut().for_each(|w| *w /= mean);
    weights
}

/// Returns the settings that were chosen in a unit, by kind of map.
fn chosen_settings(unit: &Unit) -> Choices {
    let of = |(name, solved): &(String, Solved)| Some((map_kind(name).to_owned(), solved.chosen?));
    unit.tensors.iter().filter_map(of).collect()
}
