//! What stands before the first block and after the last: embedding and head; and what the whole walk came to.

use super::residual_pair::ResidualPair;
use super::stages::{Choices, Sums, Walk};
use super::unit::Unit;
use crate::Error;
use crate::gather::{
    BlockSensitivities, Head, Inputs, LOGIT_ROWS, Missing, SENSITIVITY_CONTEXTS, Statistics, compared, logits,
};
use crate::work_folder::HEAD_INPUT;
use kvant_core::Tensor;
use kvant_model::{Block, Embedding, Positions, Slot, load_matrix};

/// Contexts that the result is measured on.
const EXPECTED_CONTEXTS: usize = 8;

/// What the network lost on text of the kind that it was calibrated on.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Expected {
    /// Mean KL divergence from the float network.
    pub kld: f64,
    /// The same where the head alone is quantized.
    pub head_kld: f64,
    /// Contexts that it was measured on.
    pub contexts: usize,
}

impl Walk<'_> {
    /// The embedding. Where it is the head too, it is solved on what the float network gives the head to read.
    pub(super) fn embedding(&self) -> Result<Unit, Error> {
        let spec = self.weights.spec();
        self.say("embedding", 0, 0, 0)?;
        let tied = spec.output.head.is_none();
        let coded = self
            .assignment(&spec.embedding.tokens.weight())
            .is_some_and(|a| a.format != a.entry.format && a.format.grid().is_some());
        let mut sums = None;
        if tied && coded {
            let mut all = Statistics::new(spec.hidden, Missing::Nothing);
            if self.work.has_numbers(HEAD_INPUT)? {
                // The same contexts went through the network on the way to their gradients.
                all.gram = self.work.load_numbers(HEAD_INPUT, spec.hidden * spec.hidden)?;
            } else {
                self.add_head_inputs(&mut all)?;
            }
            all.finish();
            sums = Some(Sums { all, selection: None });
        }
        let tensors =
            self.solve(&[&spec.embedding.tokens], sums, &BlockSensitivities::new(), &Choices::new())?;
        Ok(Unit { tensors, residuals: None })
    }

    /// What the float network gives the head to read, of some contexts.
    fn add_head_inputs(&self, sums: &mut Statistics) -> Result<(), Error> {
        let spec = self.weights.spec();
        let head = Head::new(self.weights, self.backend)?;
        let embedding = Embedding::load(self.weights, self.backend)?;
        let positions = Positions::new(spec, 0, self.calibration.length());
        let chosen = self.calibration.evenly(SENSITIVITY_CONTEXTS);
        let mut streams: Vec<Vec<f32>> = chosen.map(|tokens| embedding.rows(tokens, 0..)).collect();
        for index in 0..spec.blocks.len() {
            let block = Block::load(self.weights, self.backend, index)?;
            for residual in &mut streams {
                self.say("embedding: what the head reads", 0, 0, 0)?;
                block.forward_alone(residual, &positions);
            }
        }
        for residual in &streams {
            sums.add(self.backend, &Inputs { quantized: &head.states(residual), missed: &[], weights: None });
        }
        Ok(())
    }

    /// The head, where it has weights of its own.
    pub(super) fn head(&self, slot: &Slot, residuals: &mut ResidualPair) -> Result<Unit, Error> {
        let head = Head::new(self.weights, self.backend)?;
        let mut sums = self.sums(slot.columns, Missing::Input, true);
        for context in 0..self.calibration.contexts().len() {
            self.say("head", self.weights.spec().blocks.len(), 0, context)?;
            let (rf, rq) = residuals.read(context, self.residual_numbers())?;
            let (xf, xq) = (head.states(&rf), head.states(&rq));
            let missed = if self.recipe.method.corrects() { self.less(xf, &xq) } else { Vec::new() };
            self.add(&mut sums, context, &Inputs { quantized: &xq, missed: &missed, weights: None });
        }
        sums.finish();
        let tensors = self.solve(&[slot], Some(sums), &BlockSensitivities::new(), &Choices::new())?;
        Ok(Unit { tensors, residuals: None })
    }

    /// KL divergence of the network as solved, on selection text (which the final solutions have seen): over every
    /// second position of the contexts' second halves.
    pub(super) fn expected(
        &self,
        residuals: &mut ResidualPair,
        solved: &Tensor,
    ) -> Result<Option<Expected>, Error> {
        let spec = self.weights.spec();
        let (head, length) = (Head::new(self.weights, self.backend)?, self.calibration.length());
        let name = spec.head().weight();
        let float = load_matrix(self.backend, &self.weights.tensor(&name)?, self.weights, &name)?;
        let quantized = load_matrix(self.backend, solved, self.weights, &name)?;
        let all = 0..self.calibration.contexts().len();
        let mut contexts: Vec<usize> =
            all.clone().filter(|&i| self.calibration.selects(i) && !self.calibration.is_noise(i)).collect();
        if contexts.is_empty() {
            contexts = all.collect();
        }
        contexts.truncate(EXPECTED_CONTEXTS);
        let positions = compared(length, 2);
        if positions.is_empty() {
            return Ok(None);
        }
        let mut expected = Expected { kld: 0.0, head_kld: 0.0, contexts: contexts.len() };
        for &context in &contexts {
            self.say("what it came to", spec.blocks.len(), 0, 0)?;
            let (rf, rq) = residuals.read(context, self.residual_numbers())?;
            for positions in positions.chunks(LOGIT_ROWS) {
                let (xf, xq) = (head.states_at(&rf, positions), head.states_at(&rq, positions));
                let reference = logits(&*float, &xf);
                expected.kld += head.divergence(&reference, &logits(&*quantized, &xq));
                expected.head_kld += head.divergence(&reference, &logits(&*quantized, &xf));
            }
        }
        let count = (contexts.len() * positions.len()) as f64;
        expected.kld /= count;
        expected.head_kld /= count;
        Ok(Some(expected))
    }
}
